//! One TCP leg towards a guest: no I/O, no clock.
