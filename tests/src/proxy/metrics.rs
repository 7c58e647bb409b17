//! Reads the Prometheus text format.

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Parses a scrape; lines that are no sample are skipped.
    pub fn parse(text: &str) -> Self {
        Self {
            series: text.lines().filter_map(parse_line).collect(),
        }
    }

    /// The sum of the series of `name` whose labels include `labels`; `None` when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut matching = self
            .series
            .iter()
            .filter(|series| series.name == name)
            .filter(|series| labels.iter().all(|wanted| series.has(*wanted)))
            .peekable();
        matching.peek()?;
        Some(matching.map(|series| series.value).sum())
    }

    /// All names of the scrape, sorted, each once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .series
            .iter()
            .map(|series| series.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Series {
    fn has(&self, (name, value): (&str, &str)) -> bool {
        self.labels
            .iter()
            .any(|(known, has)| known == name && has == value)
    }
}

fn parse_line(line: &str) -> Option<Series> {
    if line.starts_with('#') {
        return None;
    }
    let (series, rest) = match line.find('{') {
        Some(open) => {
            let close = line.rfind('}')?;
            ((&line[..open], &line[open + 1..close]), &line[close + 1..])
        }
        None => {
            let space = line.find(' ')?;
            ((&line[..space], ""), &line[space..])
        }
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Series {
        name: series.0.to_owned(),
        labels: parse_labels(series.1),
        value,
    })
}

fn parse_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(chars.next().map(|(_, c)| if c == 'n' { '\n' } else { c })),
                c => value.push(c),
            }
        }
        labels.push((name.trim_start_matches([',', ' ']).to_owned(), value));
        text = &rest[end..];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn sums_by_name_and_labels() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na_total{x=\"1\",y=\"q\\\"}\"} 2\na_total{x=\"2\"} 3.5 1700\nb 1\n",
        );
        assert_eq!(metrics.sum("a_total", &[]), Some(5.5));
        assert_eq!(
            metrics.sum("a_total", &[("x", "1"), ("y", "q\"}")]),
            Some(2.0)
        );
        assert_eq!(metrics.sum("a_total", &[("x", "3")]), None);
        assert_eq!(metrics.names(), ["a_total", "b"]);
    }
}
