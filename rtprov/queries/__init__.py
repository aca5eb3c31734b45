"""Questions about tasks over AMQP: the front end's clients and the worker's servers."""
