//! Part of corral.

pub mod goproxy;
