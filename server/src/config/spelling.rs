//! Did-you-mean: the known name that a mistyped one is nearest to.

/// Finds the candidate that `given` most likely stands for.
///
/// Case, dots, dashes and underscores do not count; otherwise about one slip for every three
/// letters is forgiven.
pub(super) fn nearest<'a>(
    given: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = bare(given);
    let forgiven = (given.len() / 3).clamp(1, 2);
    candidates
        .map(|candidate| (distance(&given, &bare(candidate)), candidate))
        .filter(|(slips, _)| *slips <= forgiven)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

fn bare(name: &str) -> Vec<char> {
    name.chars()
        .filter(|c| !matches!(c, '.' | '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Counts insertions, deletions, substitutions and swaps of neighbours between two words.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgives_slips_but_not_other_words() {
        let known = ["fill.retries", "listen", "admin_listen", "l1.ttl", "off"];
        let nearest = |given| nearest(given, known.iter().copied());
        assert_eq!(nearest("fill.retires"), Some("fill.retries"));
        assert_eq!(nearest("fil.retries"), Some("fill.retries"));
        assert_eq!(nearest("FILL_RETRIES"), Some("fill.retries"));
        assert_eq!(nearest("admin-listen"), Some("admin_listen"));
        assert_eq!(nearest("lisen"), Some("listen"));
        assert_eq!(nearest("offf"), Some("off"));
        assert_eq!(nearest("version"), None);
        assert_eq!(nearest(""), None);
    }
}
