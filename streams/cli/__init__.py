"""The commands: one module per group; they read arguments, call a service and print."""
