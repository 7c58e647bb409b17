//! From a storage URL to a backend.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::StoreOptions;
use super::backend::Backend;
use super::local::LocalBackend;
use super::remote::{RemoteBackend, RemoteLimits};
use crate::Error;

const SCHEMES: &str = "an absolute path, file:///path, s3://bucket/prefix, gs://bucket/prefix, \
                       az://container/prefix or memory://";

/// After this long without a whole answer a short request is repeated.
const QUICK_TIMEOUT: Duration = Duration::from_secs(4);

/// Opens what `url` names. Blocks on the disk for a local directory.
pub(super) fn open(
    url: &str,
    options: &StoreOptions,
) -> Result<(&'static str, Arc<dyn Backend>), Error> {
    if url.starts_with('/') {
        return local(PathBuf::from(url));
    }
    let wrong = || Error::Config(format!("storage: not a storage location; use {SCHEMES}"));
    let parsed = Url::parse(url).map_err(|_| wrong())?;
    if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
        return Err(Error::Config(
            "storage: the URL must not carry credentials or a query; \
             set AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY and the like"
                .to_owned(),
        ));
    }
    let remote = |scheme: &'static str, clients: Clients| {
        let prefix = prefix(&parsed)?;
        let backend = RemoteBackend::new(
            clients.quick,
            clients.bulk,
            &prefix,
            scheme == "memory",
            &RemoteLimits {
                requests: options.requests_max,
                uploads: options.uploads_max,
                streams: options.streams_max,
                stall_timeout: options.stall_timeout,
            },
        );
        Ok((scheme, Arc::new(backend) as Arc<dyn Backend>))
    };
    match parsed.scheme() {
        "file" => local(parsed.to_file_path().map_err(|()| {
            Error::Config("storage: file:// needs an absolute path, as in file:///path".to_owned())
        })?),
        "memory" => {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            remote(
                "memory",
                Clients {
                    quick: Arc::clone(&store),
                    bulk: store,
                },
            )
        }
        "s3" => remote("s3", s3(bucket(&parsed)?, options)?),
        "gs" => remote("gs", gs(bucket(&parsed)?, options)?),
        "az" => remote("az", az(bucket(&parsed)?, options)?),
        _ => Err(wrong()),
    }
}

fn local(root: PathBuf) -> Result<(&'static str, Arc<dyn Backend>), Error> {
    use std::io::ErrorKind as Kind;
    let backend = LocalBackend::open(&root).map_err(|error| {
        let reason = match error.kind() {
            Kind::PermissionDenied => "this user may not use it",
            Kind::ReadOnlyFilesystem => "it is absent and the file system is read-only",
            Kind::NotADirectory | Kind::AlreadyExists => "a file is in the way",
            Kind::StorageFull | Kind::QuotaExceeded => "the disk is full",
            _ => return Error::storage("opening the storage directory", error),
        };
        Error::Config(format!(
            "storage: cannot open the directory: {reason}; mend that or set `storage` to another"
        ))
    })?;
    Ok(("file", Arc::new(backend)))
}

/// Two clients of one store: short requests are repeated when they are slow, long ones are not.
struct Clients {
    quick: Arc<dyn ObjectStore>,
    bulk: Arc<dyn ObjectStore>,
}

fn bucket(url: &Url) -> Result<&str, Error> {
    url.host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| {
            let scheme = url.scheme();
            Error::Config(format!(
                "storage: {scheme}:// needs a bucket, as in {scheme}://bucket/prefix"
            ))
        })
}

fn prefix(url: &Url) -> Result<String, Error> {
    let raw = percent_encoding::percent_decode_str(url.path().trim_matches('/'))
        .decode_utf8()
        .map_err(|_| Error::Config("storage: the prefix is not UTF-8".to_owned()))?;
    let path = object_store::path::Path::parse(&raw).map_err(|_| {
        Error::Config("storage: the prefix has an empty, `.` or `..` segment".to_owned())
    })?;
    Ok(path.into())
}

/// Runs a builder for both clients.
fn clients<S: ObjectStore>(
    scheme: &'static str,
    options: &StoreOptions,
    build: impl Fn(ClientOptions, RetryConfig) -> Result<S, object_store::Error>,
) -> Result<Clients, Error> {
    let client = |timeout: Duration| {
        let connection = ClientOptions::new()
            .with_connect_timeout(options.connect_timeout)
            .with_timeout(timeout);
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 3,
            retry_timeout: Duration::from_secs(30),
        };
        build(connection, retry)
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            .map_err(|error| {
                Error::Config(format!(
                    "storage: the settings of {scheme}:// do not work: {error}"
                ))
            })
    };
    Ok(Clients {
        quick: client(QUICK_TIMEOUT)?,
        bulk: client(options.upload_timeout)?,
    })
}

/// Picks the settings that a builder knows; others of the same environment are not for us.
fn known<K: FromStr>(options: &StoreOptions) -> Vec<(K, String)> {
    let mut known = Vec::new();
    for (key, value) in &options.settings {
        match K::from_str(&key.to_ascii_lowercase()) {
            Ok(parsed) => known.push((parsed, value.clone())),
            Err(_) => tracing::debug!(key, "not a setting of the object store"),
        }
    }
    known
}

fn s3(bucket: &str, options: &StoreOptions) -> Result<Clients, Error> {
    let settings = known::<AmazonS3ConfigKey>(options);
    clients("s3", options, |connection, retry| {
        let builder = AmazonS3Builder::new()
            .with_client_options(connection)
            .with_retry(retry);
        settings
            .iter()
            .fold(builder, |builder, (key, value)| {
                builder.with_config(*key, value)
            })
            .with_bucket_name(bucket)
            .build()
    })
}

fn gs(bucket: &str, options: &StoreOptions) -> Result<Clients, Error> {
    let settings = known::<GoogleConfigKey>(options);
    clients("gs", options, |connection, retry| {
        let builder = GoogleCloudStorageBuilder::new()
            .with_client_options(connection)
            .with_retry(retry);
        settings
            .iter()
            .fold(builder, |builder, (key, value)| {
                builder.with_config(*key, value)
            })
            .with_bucket_name(bucket)
            .build()
    })
}

fn az(container: &str, options: &StoreOptions) -> Result<Clients, Error> {
    let settings = known::<AzureConfigKey>(options);
    clients("az", options, |connection, retry| {
        let builder = MicrosoftAzureBuilder::new()
            .with_client_options(connection)
            .with_retry(retry);
        settings
            .iter()
            .fold(builder, |builder, (key, value)| {
                builder.with_config(*key, value)
            })
            .with_container_name(container)
            .build()
    })
}
