//! The other side: what this process presents when it calls another one, and whom it trusts to be
//! called. Tokens and certificates are read again when their files change, as orchestrators renew them.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower_service::Service;

use crate::{InvalidFlag, files::FromFiles};

/// A channel whose calls carry what the caller presents.
pub type CallerChannel = InterceptedService<Channel, Bearer>;

/// What calls to other processes present. Nothing, unless it is set.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CallerArgs {
    /// File with the bearer token that calls present, read again when it changes [default: none]
    #[arg(long, env = "TOUCHLINE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates of the authorities that sign the certificates of those who are called over
    /// https://, PEM [default: the system's]
    #[arg(long, env = "TOUCHLINE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Name that the certificate must be for of who is called at an address rather than by a name, as a
    /// leader in a cluster is [default: the address]
    #[arg(long, env = "TOUCHLINE_TLS_NAME", value_name = "NAME")]
    pub tls_name: Option<String>,
    /// Certificate chain that calls present for mutual TLS, PEM, read again when it changes
    /// [default: none]
    #[arg(
        long,
        env = "TOUCHLINE_CLIENT_CERTIFICATE",
        requires = "client_key",
        value_name = "FILE"
    )]
    pub client_certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(
        long,
        env = "TOUCHLINE_CLIENT_KEY",
        requires = "client_certificate",
        value_name = "FILE"
    )]
    pub client_key: Option<PathBuf>,
}

/// What calls present, once the files were read. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    bearer: Bearer,
    tls: ClientTls,
    /// Whom an address must prove to be.
    name: Option<Arc<str>>,
}

/// The bearer token of each call.
#[derive(Clone, Default)]
pub struct Bearer(Option<Token>);

type Header = MetadataValue<Ascii>;

#[derive(Clone)]
enum Token {
    Fixed(Header),
    File(Arc<FromFiles<Header>>),
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Some(_) => "Bearer(a token)",
            None => "Bearer(no token)",
        })
    }
}

#[derive(Debug, Clone, Default)]
enum ClientTls {
    /// The system's authorities, read when the first secure connection is made.
    #[default]
    System,
    Files(Arc<FromFiles<Arc<ClientConfig>>>),
}

impl Caller {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be used, with its flag.
    pub fn open(args: &CallerArgs) -> Result<Self, InvalidFlag> {
        let bearer = match &args.token_file {
            None => Bearer::default(),
            Some(path) => {
                let read = FromFiles::open(vec![path.clone()], |contents| header(&contents[0]));
                let file = read
                    .map_err(|reason| InvalidFlag::new("--token-file", path.display(), reason))?;
                Bearer(Some(Token::File(Arc::new(file))))
            }
        };
        let identity = match (&args.client_certificate, &args.client_key) {
            (Some(certificate), Some(key)) => vec![certificate.clone(), key.clone()],
            (None, None) => Vec::new(),
            (Some(_), None) | (None, Some(_)) => {
                let accepted = "--client-certificate and --client-key are accepted together";
                return Err(InvalidFlag::new("--client-certificate", "alone", accepted));
            }
        };
        let has_ca = args.ca_file.is_some();
        let paths: Vec<_> = args.ca_file.iter().cloned().chain(identity).collect();
        let tls = match paths.first() {
            None => ClientTls::System,
            Some(first) => {
                let shown = first.display().to_string();
                let flag = if has_ca {
                    "--ca-file"
                } else {
                    "--client-certificate"
                };
                let make = move |contents: &[Vec<u8>]| config(contents, has_ca).map(Arc::new);
                let files = FromFiles::open(paths, make)
                    .map_err(|reason| InvalidFlag::new(flag, shown, reason))?;
                ClientTls::Files(Arc::new(files))
            }
        };
        let name = args.tls_name.as_deref();
        if let Some(name) = name
            && ServerName::try_from(name).is_err()
        {
            let accepted = "a name such as a certificate has is accepted";
            return Err(InvalidFlag::new("--tls-name", name, accepted));
        }
        Ok(Self {
            bearer,
            tls,
            name: name.map(Arc::from),
        })
    }

    /// The same with this token in place of a file's.
    ///
    /// # Errors
    /// What is no token.
    pub fn with_token(mut self, token: &str) -> Result<Self, InvalidFlag> {
        let header = header(token.as_bytes())
            .map_err(|reason| InvalidFlag::new("--token", "(hidden)", reason))?;
        self.bearer = Bearer(Some(Token::Fixed(header)));
        Ok(self)
    }

    /// The token as it is now, for who presents it elsewhere than in a gRPC call.
    pub fn token(&self) -> Option<String> {
        let header = self.bearer.header()?;
        let value = header.to_str().ok()?;
        value.strip_prefix("Bearer ").map(str::to_owned)
    }

    /// A channel to a URL, or to one address of those behind it. Connects when it is first used, and
    /// again whenever the connection was lost.
    ///
    /// # Errors
    /// A URL that cannot be one.
    pub fn channel(
        &self,
        url: &Uri,
        address: Option<std::net::SocketAddr>,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<CallerChannel, tonic::transport::Error> {
        let is_secure = url.scheme_str() == Some("https");
        let target = match address {
            Some(address) => format!("http://{address}"),
            None if is_secure => {
                let host = url.host().unwrap_or_default();
                format!("http://{host}:{}", url.port_u16().unwrap_or(443))
            }
            None => url.to_string(),
        };
        // TLS is the connector's, so the transport is told of plain text; calls name the real URL.
        let endpoint = configure(Endpoint::from_shared(target)?).origin(url.clone());
        let channel = if is_secure {
            endpoint.connect_with_connector_lazy(Connector {
                tls: self.tls.clone(),
                host: self.must_be(url.host().unwrap_or_default()),
            })
        } else {
            endpoint.connect_lazy()
        };
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }

    /// What the certificate of a URL's host must be for.
    fn must_be(&self, host: &str) -> Arc<str> {
        let host = host.trim_matches(['[', ']']);
        match &self.name {
            Some(name) if host.parse::<std::net::IpAddr>().is_ok() => name.clone(),
            _ => host.into(),
        }
    }
}

impl Bearer {
    fn header(&self) -> Option<Header> {
        match self.0.as_ref()? {
            Token::Fixed(header) => Some(header.clone()),
            Token::File(file) => Some((*file.current()).clone()),
        }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = self.header() {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

fn header(token: &[u8]) -> Result<Header, String> {
    let wrong = || "is no token; one line of visible characters is accepted".to_owned();
    let token = std::str::from_utf8(token).map_err(|_| wrong())?.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let mut header: Header = format!("Bearer {token}").parse().map_err(|_| wrong())?;
    // Kept out of debug output, and of the compression's memory.
    header.set_sensitive(true);
    Ok(header)
}

fn config(contents: &[Vec<u8>], has_ca: bool) -> Result<ClientConfig, String> {
    let (authorities, identity) = match has_ca {
        true => (roots(&contents[0])?, &contents[1..]),
        false => (system_roots(), contents),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(authorities);
    let mut config = match identity {
        [certificate, key] => {
            let chain = certificates(certificate, "the certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| "the key is no PEM private key".to_owned())?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("certificate and key do not fit together: {error}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Reads a chain of PEM certificates.
pub(crate) fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err(format!("{what} is no PEM certificate")),
    }
}

/// Reads PEM certificates of authorities.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem, "the authority")? {
        let added = roots.add(authority);
        added.map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    Ok(roots)
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one that is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl ClientTls {
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
        match self {
            Self::Files(files) => Ok((*files.current()).clone()),
            Self::System => SYSTEM
                .get_or_init(|| config(&[], false).map(Arc::new))
                .clone(),
        }
    }
}

/// Makes secure connections with what the files say at that moment.
struct Connector {
    tls: ClientTls,
    host: Arc<str>,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let config = self.tls.config().map_err(io::Error::other);
        let host = self.host.clone();
        Box::pin(async move {
            let address = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((address, uri.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(config?).connect(name, stream).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_and_never_shown() {
        let caller = Caller::default().with_token("a.b.c\n").unwrap();
        assert_eq!(caller.token().as_deref(), Some("a.b.c"));
        assert!(!format!("{caller:?}").contains("a.b.c"));
        let mut bearer = caller.bearer.clone();
        let request = bearer.call(Request::new(())).unwrap();
        let header = request.metadata().get("authorization").unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer a.b.c");
        assert!(!format!("{request:?}").contains("a.b.c"));
        for bad in ["", " ", "two words", "two\nlines", "t\u{f6}ken"] {
            let error = Caller::default().with_token(bad).unwrap_err();
            assert!(error.to_string().contains("one line of visible"), "{error}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let args = CallerArgs {
            client_certificate: Some("client.pem".into()),
            ..CallerArgs::default()
        };
        let error = Caller::open(&args).unwrap_err().to_string();
        assert!(error.starts_with("--client-certificate alone: "), "{error}");
    }
}
