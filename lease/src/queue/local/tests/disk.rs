//! What the file keeps, and what may happen to it.

use super::*;
