//! Every route in one table.
use hyper::Method;
use std::time::Duration;

use super::parameters::Given;
use super::transfer::WAIT;
use super::{ApiError, Filter, Handed, Request, Wanted};

/// One route: what to ask for, and what it becomes.
pub struct Route {
    /// The HTTP method.
    pub method: Method,
    /// The path; `{name}` stands for one segment.
    pub path: &'static str,
    /// The query parameters that it takes, by their names in [`PARAMETERS`](super::PARAMETERS); each may be absent.
    pub query: &'static [&'static str],
    /// What it answers.
    pub help: &'static str,
    request: fn(Arguments<'_>) -> Result<Request, ApiError>,
}

/// What a request's target gives to its route.
#[derive(Default)]
struct Arguments<'a> {
    /// The segment in the place of `{name}`.
    name: &'a str,
    /// The query's parameters.
    given: Given,
}

impl Arguments<'_> {
    /// How long something may be waited for.
    fn wait(&self) -> Duration {
        self.given.read_as("timeout").map_or(WAIT, Duration::from_secs)
    }
}

/// Every route.
pub static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/vms",
        query: &[],
        help: "every VM: addresses, state, traffic, drops",
        request: |_| Ok(Request::Vms),
    },
    Route {
        method: Method::GET,
        path: "/v1/vms/{name}",
        query: &[],
        help: "everything about one VM",
        request: |arguments| Ok(Request::Vm(arguments.name.to_string())),
    },
    Route {
        method: Method::PUT,
        path: "/v1/vms/{name}",
        query: &[],
        help: "writes a VM's file, which the body is (TOML, or the same as JSON), and applies it as a reload does; a bad one changes nothing",
        request: |arguments| Ok(Request::PutVm { vm: arguments.name.to_string(), text: String::new() }),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/vms/{name}",
        query: &[],
        help: "removes a VM and its file",
        request: |arguments| Ok(Request::DeleteVm(arguments.name.to_string())),
    },
    Route {
        method: Method::GET,
        path: "/v1/connections",
        query: &["vm", "protocol", "state", "address", "port", "min_age", "max_age"],
        help: "open connections and flows of datagrams; of all, or those that every parameter is true of",
        request: |arguments| Ok(Request::Connections(Filter::of(&arguments.given))),
    },
    Route {
        method: Method::GET,
        path: "/v1/events",
        query: &["vm", "after"],
        help: "what happens from now on, a line of JSON each, for as long as it is read",
        request: |arguments| {
            let given = arguments.given;
            Ok(Request::Events(Wanted { vm: given.text("vm"), after: given.text("after") }))
        },
    },
    Route { method: Method::GET, path: "/v1/stats", query: &[], help: "counters", request: |_| Ok(Request::Stats) },
    Route {
        method: Method::GET,
        path: "/v1/rates",
        query: &["seconds"],
        help: "how each VM's counters move: looked at twice",
        request: |arguments| Ok(Request::Rates(Duration::from_secs(arguments.given.read_as("seconds").unwrap_or(1)))),
    },
    Route {
        method: Method::GET,
        path: "/v1/metrics",
        query: &[],
        help: "counters for Prometheus, as OpenMetrics text",
        request: |_| Ok(Request::Metrics),
    },
    Route {
        method: Method::POST,
        path: "/v1/reload",
        query: &["dry_run"],
        help: "reads the configuration again",
        request: |arguments| Ok(Request::Reload { dry_run: arguments.given.read_as("dry_run").unwrap_or(false) }),
    },
    Route {
        method: Method::POST,
        path: "/v1/upgrade",
        query: &["binary"],
        help: "has a newer vonicd take over; the program's absolute path",
        request: |arguments| {
            let binary = arguments.given.text("binary").ok_or_else(|| {
                ApiError::bad_request("which program is to take over?").field("binary").mend("add ?binary=/its/path")
            })?;
            Ok(Request::Upgrade(binary.into()))
        },
    },
    Route {
        method: Method::GET,
        path: "/v1/upgrade",
        query: &[],
        help: "how the last upgrade ended",
        request: |_| Ok(Request::Upgraded),
    },
    Route {
        method: Method::GET,
        path: "/v1/health",
        query: &[],
        help: "whether the service works",
        request: |_| Ok(Request::Health),
    },
    Route {
        method: Method::GET,
        path: "/v1/engine",
        query: &[],
        help: "the engine, and what became of those before it",
        request: |_| Ok(Request::Engine),
    },
    Route {
        method: Method::POST,
        path: "/v1/migrate/save/{name}",
        query: &["timeout"],
        help: "a VM's state for another host, as bytes, once its rings have stopped",
        request: |arguments| Ok(Request::SaveState { vm: arguments.name.to_string(), limit: arguments.wait() }),
    },
    Route {
        method: Method::POST,
        path: "/v1/migrate/load/{name}",
        query: &["timeout"],
        help: "has a VM's rings wait for its state, which is the body",
        request: |arguments| Ok(Request::AwaitState { vm: arguments.name.to_string(), limit: arguments.wait() }),
    },
    Route {
        method: Method::POST,
        path: "/v1/capture/{name}",
        query: &[],
        help: "a VM's frames as pcapng, for as long as the client reads; the body says which",
        request: |arguments| Ok(Request::Capture { vm: arguments.name.to_string(), capturer: Handed::default() }),
    },
    Route {
        method: Method::POST,
        path: "/v1/engine/restart",
        query: &[],
        help: "another engine in its place; answers with the one that goes",
        request: |_| Ok(Request::RestartEngine),
    },
    Route {
        method: Method::GET,
        path: "/v1/openapi.json",
        query: &[],
        help: "this list, as OpenAPI 3.1 says such things",
        request: |_| Ok(Request::OpenApi),
    },
];

/// The methods that a path takes, as the header `Allow` has them; empty for a path that no route has.
pub(super) fn allowed(path: &str) -> String {
    let methods: Vec<&str> =
        ROUTES.iter().filter(|r| name_in(r.path, path).is_some()).map(|r| r.method.as_str()).collect();
    methods.join(", ")
}

/// What a request line asks for. Errors: 404 for an unknown path, 405 for a path that takes another method, 400 for an
/// unknown or repeated query parameter.
pub(super) fn resolve(method: &Method, path: &str, query: Option<&str>) -> Result<Request, ApiError> {
    let Some((route, name)) =
        ROUTES.iter().filter(|r| r.method == *method).find_map(|r| Some((r, name_in(r.path, path)?)))
    else {
        return Err(unroutable(method, path));
    };
    (route.request)(Arguments { name, given: Given::read(query, route.query)? })
}

fn unroutable(method: &Method, path: &str) -> ApiError {
    let allowed = allowed(path);
    if allowed.is_empty() {
        let paths: Vec<&str> = ROUTES.iter().map(|r| r.path).collect();
        return ApiError::not_found("there is no such path").field("path").mend(format!("use {}", paths.join(", ")));
    }
    ApiError::new(405, format!("{method} is not for this path")).field("method").mend(format!("use {allowed}"))
}

/// The segment in the place of `{name}` if the path has the pattern's form; the empty string if the pattern has none.
fn name_in<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.strip_suffix("{name}") {
        None => (pattern == path).then_some(""),
        Some(prefix) => path.strip_prefix(prefix).filter(|name| !name.is_empty() && !name.contains('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: Option<&str>) -> Result<Request, ApiError> {
        resolve(&Method::GET, path, query)
    }

    #[test]
    fn targets_become_requests() {
        assert_eq!(get("/v1/vms", None), Ok(Request::Vms));
        assert_eq!(get("/v1/vms", Some("")), Ok(Request::Vms));
        assert_eq!(get("/v1/vms/web1.a-b_c", None), Ok(Request::Vm("web1.a-b_c".into())));
        assert_eq!(get("/v1/connections", None), Ok(Request::Connections(Filter::default())));
        let of_a = Filter { vm: Some("a".into()), port: Some(80), ..Filter::default() };
        assert_eq!(get("/v1/connections", Some("port=80&vm=a")), Ok(Request::Connections(of_a)));
        assert_eq!(get("/v1/events", None), Ok(Request::Events(Wanted::default())));
        assert_eq!(get("/v1/rates", None), Ok(Request::Rates(Duration::from_secs(1))));
        assert_eq!(resolve(&Method::DELETE, "/v1/vms/a", None), Ok(Request::DeleteVm("a".into())));
        assert_eq!(get("/v1/stats", None), Ok(Request::Stats));
        assert_eq!(get("/v1/metrics", None), Ok(Request::Metrics));
        assert_eq!(get("/v1/health", None), Ok(Request::Health));
        assert_eq!(resolve(&Method::POST, "/v1/reload", None), Ok(Request::Reload { dry_run: false }));
        assert_eq!(resolve(&Method::POST, "/v1/reload", Some("dry_run=true")), Ok(Request::Reload { dry_run: true }));
        assert_eq!(get("/v1/engine", None), Ok(Request::Engine));
        assert_eq!(resolve(&Method::POST, "/v1/engine/restart", None), Ok(Request::RestartEngine));
        assert_eq!(get("/v1/upgrade", None), Ok(Request::Upgraded));
        let (vm, minute) = ("a".to_string(), Duration::from_secs(60));
        let save = resolve(&Method::POST, "/v1/migrate/save/a", None);
        assert_eq!(save, Ok(Request::SaveState { vm: vm.clone(), limit: minute }));
        let load = resolve(&Method::POST, "/v1/migrate/load/a", Some("timeout=5"));
        assert_eq!(load, Ok(Request::AwaitState { vm, limit: minute / 12 }));
        let binary = "binary=/opt/a%20b%26/vonicd";
        assert_eq!(
            resolve(&Method::POST, "/v1/upgrade", Some(binary)),
            Ok(Request::Upgrade("/opt/a b&/vonicd".into()))
        );
    }

    #[test]
    fn wrong_targets_are_told_what_to_use() {
        let status = |result: Result<Request, ApiError>| result.unwrap_err().status;
        for path in ["/", "", "/v1", "/v2/vms", "/v1/vms/", "/v1/vms/a/b", "/v1/vmsx", "*"] {
            assert_eq!(status(get(path, None)), 404, "{path}");
        }
        assert!(get("/x", None).unwrap_err().mend.unwrap().contains("/v1/vms"));
        let wrong_method = get("/v1/reload", None).unwrap_err();
        assert_eq!((wrong_method.status, wrong_method.mend.as_deref()), (405, Some("use POST")));
        assert_eq!(status(resolve(&Method::POST, "/v1/vms/a", None)), 405);
        let to_one = resolve(&Method::PATCH, "/v1/vms/a", None).unwrap_err();
        assert_eq!(to_one.mend.as_deref(), Some("use GET, PUT, DELETE"));
        for query in [None, Some("binary="), Some("binary=%ff"), Some("vm=a")] {
            assert_eq!(status(resolve(&Method::POST, "/v1/upgrade", query)), 400, "{query:?}");
        }
        for query in ["timeout=0", "timeout=-1", "timeout=1.5", "timeout=86401", "timeout=", "vm=a"] {
            assert_eq!(status(resolve(&Method::POST, "/v1/migrate/save/a", Some(query))), 400, "{query}");
        }
        for query in ["x=1", "vm=", "vm", "vm=a&vm=b", "vm=a&y"] {
            assert_eq!(status(get("/v1/connections", Some(query))), 400, "{query}");
        }
        assert_eq!(get("/v1/vms", Some("vm=a")).unwrap_err().field.as_deref(), Some("vm"));
    }
}
