//! Guest memory and the split virtqueue, device side.
