//! The worker: rings, switch, legs, services.
