//! A job's history: what each attempt ended with, newest first, in the one line that the queue
//! keeps with a job.
//!
//! For example `#2 upstream example.org failed: status 500; #1 upstream example.org …`. The number
//! of attempts is read from it, and not from how often the job was taken: a worker that was killed
//! or stopped has taken a job without trying it.

use lease::JOB_ERROR_BYTES_MAX;

/// The longest text of one attempt, in bytes; the newest must not push out all others.
const ATTEMPT_BYTES_MAX: usize = 320;

/// Puts the failure of attempt `number` before the earlier ones, of which those that do not fit
/// are left out, oldest first.
pub(crate) fn with_attempt(number: u32, error: &str, earlier: Option<&str>) -> String {
    let mut history = format!("#{number} {}", cut(error, ATTEMPT_BYTES_MAX));
    let earlier = earlier.unwrap_or_default();
    if !earlier.is_empty() {
        history.push_str("; ");
        history.push_str(earlier);
    }
    history.truncate(cut(&history, JOB_ERROR_BYTES_MAX).len());
    history
}

/// The number of the newest attempt in `history`; 0 when there is none.
pub(crate) fn attempts_in(history: Option<&str>) -> u32 {
    let number = history
        .and_then(|history| history.strip_prefix('#'))
        .and_then(|rest| rest.split_once(' '));
    number
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

/// The longest begin of `text` of at most `bytes_max` bytes that ends between two characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_comes_first() {
        let first = with_attempt(1, "no connection", None);
        let second = with_attempt(2, "status 500", Some(&first));
        assert_eq!(second, "#2 status 500; #1 no connection");
        assert_eq!(attempts_in(Some(&second)), 2);
        for none in [None, Some(""), Some("#"), Some("#x y"), Some("text")] {
            assert_eq!(attempts_in(none), 0);
        }
    }

    proptest! {
        #[test]
        fn a_history_is_bounded_and_always_says_how_many(errors in prop::collection::vec(".{0,400}", 1..40)) {
            let mut history = None;
            for (index, error) in errors.iter().enumerate() {
                let number = u32::try_from(index).unwrap_or(0) + 1;
                let next = with_attempt(number, error, history.as_deref());
                prop_assert!(next.len() <= JOB_ERROR_BYTES_MAX);
                prop_assert_eq!(attempts_in(Some(&next)), number);
                history = Some(next);
            }
        }
    }
}
