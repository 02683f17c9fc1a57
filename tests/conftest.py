"""What all tests stand on."""

import signal

# A shell that puts a command in the background makes it deaf to SIGINT, and what it starts too: tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
