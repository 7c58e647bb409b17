//! Part of corral.
