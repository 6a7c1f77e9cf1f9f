"""The applications and the process: what composes the other packages of `service.http`."""
