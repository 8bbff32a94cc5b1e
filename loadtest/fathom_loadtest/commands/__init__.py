"""The subcommands of ``fathom-load``, one module each, named as the command is.

Each gives ``HELP`` (one line), ``add_arguments(parser)`` and ``main(options, command) -> exit status``, where
``command`` is the whole command line as text. A module imports what is heavy where it is used.
"""
