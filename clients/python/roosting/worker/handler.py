"""What an application implements."""


class Handler:
    """An application behind a worker. Each method may be a plain function or `async`.

    Calls come on the worker's thread. Of one connection they come in order, one after the other: while an async one
    runs, what follows for that connection waits, and others go on. A frame of a gateway is acknowledged when its
    call has returned and what the call sent has been handed over; so should this worker die, another one gets every
    message that did not have its full effect. A call that raises is logged, and its client closed with `internal`.

    The worker is in `self.worker` once it has been made.
    """

    worker = None

    def on_open(self, client, opening):
        """A client wants a session: answer with `client.accept` or `client.reject`. Or, with `opening.moved`, it
        comes from another worker, which may have died, and is open already. Accepts everybody, if not overridden."""
        if not opening.moved:
            client.accept()

    def on_message(self, client, message):
        """A client said something. With `message.resent` another worker may have handled it before: who cannot bear
        that looks for an id of the application's in what workers share."""

    def on_close(self, client, reason):
        """A connection has gone, for the reason with this label; `moved`: to another worker, or its gateway is given
        up. Comes once for every `on_open` whose client was not rejected; nothing can be sent any more."""

    def on_relay(self, relay):
        """A worker sent this to whoever serves `relay.routing_hash`, or to all; `relay.answer` answers."""

    def on_presence(self, routing_hash, is_here):
        """The first connection of a key has opened here, or the last one has gone. Not async."""
