//! Limits that the operating system sets on the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to the most that this process may have, and returns it.
///
/// Every connection and every spool file is one. The usual soft limit of 1,024 is a relic of
/// `select`, and a thousand builds that start at once exceed it. `None` means no limit.
///
/// # Errors
///
/// The system's refusal; the old limit stays in force, and the server can go on with it.
pub fn raise_open_files() -> std::io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
    }
    Ok(limit.maximum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn raises_to_the_hard_limit_again_and_again() {
        let hard = getrlimit(Resource::Nofile).maximum;
        for _ in 0..2 {
            assert_eq!(raise_open_files().unwrap(), hard);
            assert_eq!(getrlimit(Resource::Nofile).current, hard);
        }
    }
}
