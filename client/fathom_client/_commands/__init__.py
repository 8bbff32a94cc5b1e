"""The commands of ``fathom-client``: one module a group of them, and what they share.

Each module's ``add`` describes its commands to the parser; a command is a function from the parsed options to an exit
status. Nothing here imports gRPC or numpy before a command runs.
"""
