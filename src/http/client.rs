//! Asks a running instance, as the commands do.
//!
//! A command reads the same configuration file as the instance. Over TLS it therefore trusts neither
//! authority nor name (the address is mostly localhost, the certificate's name the public one): the
//! instance must show the very certificate that `http.tls_cert_file` holds, and prove its key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::config::settings::{HttpSettings, Settings};
use crate::http::same_store;
use crate::http::tls::{TlsError, certificates};

/// Longest wait for an answer: above what the instance itself allows.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longest answer that is taken: a list of some ten thousand alerts.
const MAX_ANSWER: usize = 64 << 20;

/// Why an instance gave no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The token file cannot be read.
    #[error("cannot read the token file {}: {source}", path.display())]
    Token {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It answered that it will not.
    #[error("{url} refuses ({status}): {message}")]
    Refused {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// Something answers there that is no instance of this configuration.
    #[error("no answer from {url}: {message}")]
    NoAnswer {
        /// Where.
        url: String,
        /// Why.
        message: String,
    },
}

impl ClientError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Tls(error) => error.kind(),
            Self::Refused { .. } => "refused",
            Self::NoAnswer { .. } => "no_answer",
        }
    }
}

/// Where the instance of a configuration answers.
#[must_use]
pub fn url(settings: &HttpSettings) -> String {
    let scheme = if settings.tls_cert_file.is_some() { "https" } else { "http" };
    format!("{scheme}://{}", reachable(&settings.listen))
}

/// Asks with GET; `None` when nobody listens there.
///
/// # Errors
/// The instance refuses, or what answers is not it.
pub fn get(settings: &Settings, path: &str) -> Result<Option<serde_json::Value>, ClientError> {
    send(settings, Method::GET, path, Vec::new())
}

/// Sends JSON with the configuration's token; `None` when nobody listens there.
///
/// # Errors
/// As [`get`]; or the token file cannot be read.
pub fn post(settings: &Settings, path: &str, body: &impl serde::Serialize) -> Result<Option<serde_json::Value>, ClientError> {
    let bytes = serde_json::to_vec(body).map_err(|error| no_answer(&settings.http, &error))?;
    send(settings, Method::POST, path, bytes)
}

fn send(settings: &Settings, method: Method, path: &str, body: Vec<u8>) -> Result<Option<serde_json::Value>, ClientError> {
    let store = same_store::name_of(&settings.store.path);
    let settings = &settings.http;
    let mut request = Request::builder().method(&method).uri(path).header(header::HOST, reachable(&settings.listen));
    if let Some(store) = store {
        request = request.header(same_store::HEADER, store);
    }
    if method == Method::POST {
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &settings.token_file {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token(file)?));
        }
    }
    let request = request.body(Body::from(body)).map_err(|error| no_answer(settings, &error))?;
    let connector = settings.tls_cert_file.as_deref().map(connector).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| no_answer(settings, &error))?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange(&reachable(&settings.listen), connector, request))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "nothing within 40 s")))
    });
    let (status, bytes) = match answer {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(no_answer(settings, &error)),
    };
    let answer: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| no_answer(settings, &error))?;
    if status.is_success() {
        return Ok(Some(answer));
    }
    let message = answer["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
    Err(ClientError::Refused { url: url(settings), status: status.as_u16(), message })
}

async fn exchange(address: &str, connector: Option<TlsConnector>, request: Request<Body>) -> io::Result<(StatusCode, Vec<u8>)> {
    let stream = TcpStream::connect(address).await?;
    match connector {
        None => over(stream, request).await,
        Some(connector) => {
            // The name is not looked at: the certificate itself is.
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            over(connector.connect(name, stream).await?, request).await
        }
    }
}

async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, request: Request<Body>) -> io::Result<(StatusCode, Vec<u8>)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let mut connection = std::pin::pin!(connection);
    let answer = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let bytes = to_bytes(Body::new(answer.into_body()), MAX_ANSWER).await.map_err(io::Error::other)?;
        Ok((status, bytes.to_vec()))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

fn no_answer(settings: &HttpSettings, error: &dyn std::error::Error) -> ClientError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message = format!("{message}: {error}");
        source = error.source();
    }
    ClientError::NoAnswer { url: url(settings), message }
}

fn token(file: &Path) -> Result<String, ClientError> {
    let text = std::fs::read_to_string(file).map_err(|source| ClientError::Token { path: file.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

/// A listener on every address is reached on the loopback one.
fn reachable(listen: &str) -> String {
    listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
}

fn connector(cert_file: &Path) -> Result<TlsConnector, TlsError> {
    let pinned = certificates(cert_file)?.swap_remove(0);
    let provider = Arc::new(ring::default_provider());
    let verifier = Pinned { certificate: pinned, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Content {
            key: "http.tls_cert_file",
            path: cert_file.to_owned(),
            expected: "a certificate",
            found: error.to_string(),
        })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Accepts one certificate and no other.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.certificate.as_ref() {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("it shows another certificate than http.tls_cert_file holds: restart it, or mend the file".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
