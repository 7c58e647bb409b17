//! Keys whose value is one of a few words.

use toml::Value;

use super::spelling;
use super::value::{Field, Rule, Shape};

/// Declares an enum whose variants are words in the configuration.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// The word that stands for it in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Field for $name {
            const SHAPE: Shape = Shape::Text;

            fn read(value: &Value, _rule: &Rule) -> Result<Self, String> {
                match value.as_str() {
                    $(Some($word) => Ok(Self::$variant),)+
                    other => Err(must_be_one_of(&[$($word),+], other)),
                }
            }

            fn show(&self) -> Option<Value> {
                Some(Value::from(self.as_str()))
            }
        }
    };
}

fn must_be_one_of(words: &[&str], given: Option<&str>) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let hint = given
        .and_then(|given| spelling::nearest(given, words.iter().copied()))
        .map_or_else(String::new, |word| format!("; did you mean {word:?}?"));
    format!("must be {}{hint}", quoted.join(" or "))
}

choice! {
    /// Which checks are made beside those of structure and size.
    VerifyMode {
        /// Also against the checksum database.
        Sumdb = "sumdb",
        /// None.
        Off = "off",
    }
}

choice! {
    /// What happens to a file while the checksum database cannot be asked.
    OnUnavailable {
        /// It is served, and kept outside the tree until it has been verified.
        Serve = "serve",
        /// The fill fails.
        Fail = "fail",
    }
}

choice! {
    /// What follows a failed fill.
    FillOnFailure {
        /// It is tried again in the background.
        Queue = "queue",
        /// It is tried again by the next request after a growing pause.
        Backoff = "backoff",
        /// Nothing; the next request after the failure record's end tries again.
        Drop = "drop",
    }
}

choice! {
    /// What a follower does when it waited for `fill.wait_max`.
    OnWaitTimeout {
        /// It fetches the file itself.
        Fetch = "fetch",
        /// It answers 504.
        Error = "error",
    }
}

choice! {
    /// How several Valkey servers belong together.
    Topology {
        /// What the URLs say.
        Auto = "auto",
        /// One server.
        Single = "single",
        /// Independent servers, each with a share of the keys.
        Ring = "ring",
        /// One primary, which Sentinels name.
        Sentinel = "sentinel",
        /// A Cluster.
        Cluster = "cluster",
    }
}

choice! {
    /// Where a document is looked for when reading it from Valkey fails.
    OnGetError {
        /// In this process's memory, where a copy is kept for `l1.ttl`.
        L1 = "l1",
        /// Nowhere: it counts as absent.
        Miss = "miss",
    }
}

choice! {
    /// The form of log lines.
    LogFormat {
        /// `Pretty` on a terminal, else `Json`.
        Auto = "auto",
        /// For people.
        Pretty = "pretty",
        /// One JSON object per line.
        Json = "json",
    }
}
