//! Requests to the API server, by verb and resource, never by an object's name.

use hyper::{Method, Request};

/// Verb and resource as in a role, e.g. `("patch", "heliosclusters/status")`.
pub fn classify<B>(request: &Request<B>) -> (&'static str, String) {
    let path: Vec<_> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let (resource, named) = match path.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => match rest {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => target(rest),
            rest => target(rest),
        },
        _ => ("other".to_owned(), false),
    };
    let watches =
        request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
    let verb = match *request.method() {
        Method::GET | Method::HEAD if watches => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    (verb, resource)
}

/// The resource, with its subresource, and whether one object of it is named.
fn target(path: &[&str]) -> (String, bool) {
    match path {
        [] => ("other".to_owned(), false),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_labels_are_the_verb_and_resource_of_a_role() {
        let cases = [
            ("GET", "/api/v1/namespaces/team/pods?labelSelector=a%3Db", "list", "pods"),
            ("GET", "/api/v1/pods?&watch=true&labelSelector=a", "watch", "pods"),
            ("GET", "/api/v1/namespaces/team", "get", "namespaces"),
            ("GET", "/apis/apps/v1/namespaces/team/statefulsets/demo", "get", "statefulsets"),
            ("POST", "/api/v1/namespaces/team/pods/demo-0/eviction?", "create", "pods/eviction"),
            (
                "DELETE",
                "/api/v1/namespaces/team/persistentvolumeclaims/data-demo-0",
                "delete",
                "persistentvolumeclaims",
            ),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/x/leases/l", "update", "leases"),
            (
                "PATCH",
                "/apis/heliosdb.io/v1alpha1/namespaces/team/heliosclusters/demo/status?force=true",
                "patch",
                "heliosclusters/status",
            ),
            ("GET", "/version", "list", "other"),
        ];
        for (method, uri, verb, resource) in cases {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            assert_eq!(classify(&request), (verb, resource.to_owned()), "{method} {uri}");
        }
    }
}
