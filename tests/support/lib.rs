//! The test bed: lab root, guests, mock frontend.
