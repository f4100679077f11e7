//! One VM's vhost-user session in the engine: VhostUserDaemon glue that turns messages into port events.
