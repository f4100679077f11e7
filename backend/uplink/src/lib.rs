//! Where frames and bytes leave the guests: host sockets.
