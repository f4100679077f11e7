//! Configuration, registry, API: the engine's control side.
