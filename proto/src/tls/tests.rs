use std::net::SocketAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key for `host`, valid until the end of a year.
    fn leaf(&self, host: &str, last_year: i32) -> (String, String) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "member");
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

fn client(ca: &Authority, leaf: Option<&(String, String)>) -> ClientTls {
    let identity = leaf.map(|(certificate, key)| (certificate.as_bytes(), key.as_bytes()));
    ClientTls::from_pem(ca.pem().as_bytes(), identity).unwrap()
}

/// Greets each client that shows a certificate of `ca` with one byte.
async fn server(ca: &Authority, leaf: &(String, String)) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusted = Arc::new(roots(ca.pem().as_bytes()).unwrap());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(trusted, Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(leaf.0.as_bytes()).unwrap(), private_key(leaf.1.as_bytes()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                stream.write_all(b"!").await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    });
    address
}

async fn greeted(address: SocketAddr, name: &str, tls: &ClientTls) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.unwrap();
    tls.greet(stream, name).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn both_ends_check_each_other_and_say_what_is_wrong() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let leaf = ours.leaf("db.example", 2090);
    let address = server(&ours, &leaf).await;
    assert_eq!(greeted(address, "db.example", &client(&ours, Some(&leaf))).await, Ok(()));
    let foreign = theirs.leaf("db.example", 2090);
    let expired = ours.leaf("db.example", 2001);
    let cases = [
        (client(&ours, None), "db.example", "it asks for a certificate, and none was shown"),
        (
            client(&ours, Some(&foreign)),
            "db.example",
            "it does not trust the CA of the certificate shown to it",
        ),
        (client(&ours, Some(&expired)), "db.example", "it says that the certificate shown to it has expired"),
        (client(&theirs, Some(&leaf)), "db.example", "its certificate is of no CA that is trusted here"),
        (client(&ours, Some(&leaf)), "other.example", "its certificate is not for other.example but for"),
    ];
    for (tls, name, expected) in cases {
        let error = greeted(address, name, &tls).await.unwrap_err();
        assert!(error.starts_with(expected), "{error} is not {expected}");
    }
}

#[tokio::test]
async fn a_channel_says_why_there_is_none() {
    let ours = Authority::new("ours");
    let leaf = ours.leaf("127.0.0.1", 2090);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plaintext = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        }
    });
    let limit = Duration::from_secs(5);
    let address = plaintext.to_string();
    let tls = client(&ours, Some(&leaf));
    let error = connect(&address, host_of(&address), Some(&tls), limit, limit).await.unwrap_err();
    assert_eq!(error.0, "it does not speak TLS");
    let error = connect("no port", "x", None, limit, limit).await.unwrap_err();
    assert!(error.0.contains("host:port"), "{error}");
}

#[test]
fn several_roots_are_trusted_and_what_is_no_pem_is_refused() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    assert_eq!(roots(format!("{}{}", one.pem(), other.pem()).as_bytes()).unwrap().len(), 2);
    assert_eq!(roots(b"nothing").unwrap_err(), TlsError::NoCertificate);
    let leaf = one.leaf("a", 2090);
    assert_eq!(private_key(leaf.0.as_bytes()).unwrap_err(), TlsError::NoKey);
    let other_key = other.leaf("a", 2090).1;
    let mixed = ClientTls::from_pem(one.pem().as_bytes(), Some((leaf.0.as_bytes(), other_key.as_bytes())));
    assert!(matches!(mixed.unwrap_err(), TlsError::Unusable(_)));
    assert_eq!(not_after(leaf.0.as_bytes()).unwrap(), rcgen::date_time_ymd(2090, 12, 31).unix_timestamp());
}

#[test]
fn the_host_is_what_stands_before_the_port() {
    for (address, host) in [
        ("demo-0.demo-peers:7000", "demo-0.demo-peers"),
        ("10.0.0.1:7000", "10.0.0.1"),
        ("[::1]:7000", "::1"),
    ] {
        assert_eq!(host_of(address), host);
    }
}
