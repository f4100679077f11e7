//! The master: vhost-user front, journal, custody of descriptors, engine start.
