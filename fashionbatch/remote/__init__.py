"""Objects on object stores and web servers: found, read in ranges, written, cached on the disk.

Imported where an address is used, and nowhere else: nothing here is needed for local work.
"""
