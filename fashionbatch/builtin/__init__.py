"""The components that come with fashionbatch; reached through the plugin hooks only."""
