//! TLS of the page and API listener: certificate and key from files, and what is wrong with them.
//!
//! TLS 1.2 and 1.3 by rustls with ring. HTTP/1.1 is the one protocol offered: it is what the listener
//! speaks. Clients are not asked for certificates; what may change something is the bearer token.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// Turns accepted connections into TLS.
pub type Acceptor = TlsAcceptor;

/// Why the listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Key of `[http]`.
        key: &'static str,
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("expected {expected} in PEM in {}, found {found}", path.display())]
    Content {
        /// Key of `[http]`.
        key: &'static str,
        /// File.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Both can be read and do not belong together.
    #[error("the key in {} does not belong to the certificate in {}: {message}", key_file.display(), cert_file.display())]
    Mismatch {
        /// Key of `[http]`.
        key: &'static str,
        /// Certificate file.
        cert_file: PathBuf,
        /// Key file.
        key_file: PathBuf,
        /// Why.
        message: String,
    },
}

impl TlsError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "tls"
    }

    /// The key of the configuration that must be mended.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Read { key, .. } | Self::Content { key, .. } | Self::Mismatch { key, .. } => key,
        }
    }
}

const CERT_KEY: &str = "http.tls_cert_file";
const KEY_KEY: &str = "http.tls_key_file";

/// What turns accepted connections into TLS, from a PEM certificate chain (the listener's own first) and its key.
///
/// # Errors
/// A file cannot be read, holds something else, or the two do not belong together.
pub fn acceptor(cert_file: &Path, key_file: &Path) -> Result<Acceptor, TlsError> {
    let chain = certificates(cert_file)?;
    let key = private_key(key_file)?;
    let mismatch = |error: rustls::Error| {
        let (key, message) = (KEY_KEY, error.to_string());
        TlsError::Mismatch { key, cert_file: cert_file.to_owned(), key_file: key_file.to_owned(), message }
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(mismatch)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const EXPECTED: &str = "a certificate (BEGIN CERTIFICATE)";
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes(CERT_KEY, path)?).collect();
    let content = |found| TlsError::Content { key: CERT_KEY, path: path.to_owned(), expected: EXPECTED, found };
    match read {
        Ok(chain) if chain.is_empty() => Err(content("none".to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(content(error.to_string())),
    }
}

/// The bytes of a key are named in no error.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const EXPECTED: &str = "a private key without a passphrase (BEGIN PRIVATE KEY)";
    PrivateKeyDer::from_pem_slice(&bytes(KEY_KEY, path)?).map_err(|error| {
        let found = if matches!(error, pem::Error::NoItemsFound) { "none" } else { "no readable PEM" };
        TlsError::Content { key: KEY_KEY, path: path.to_owned(), expected: EXPECTED, found: found.to_owned() }
    })
}

fn bytes(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { key, path: path.to_owned(), source })
}
