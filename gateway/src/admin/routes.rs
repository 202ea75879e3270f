//! What is served where.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{self, HeaderValue},
};

use super::{
    api::{self, Answer, Api},
    guard::Guard,
};
use crate::{
    metrics::{CONTENT_TYPE, Metrics, Readiness},
    shard::ShardHandle,
};

/// The page with everything in it: it fetches nothing but `/metrics` and `/api/`.
static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let page = include_str!("../../assets/page.html");
    Bytes::from(page.replace("/* plot.js */", include_str!("../../assets/plot.js")))
});

/// Keeps the page from loading or leaking anything, and from being framed.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const TEXT: &str = "text/plain; charset=utf-8";

/// Everything that requests are answered from.
#[derive(Debug)]
pub(super) struct Routes {
    metrics: Metrics,
    readiness: Arc<Readiness>,
    guard: Guard,
    api: Api,
}

impl Routes {
    pub(super) fn new(
        metrics: Metrics,
        readiness: Arc<Readiness>,
        guard: Guard,
        shards: Vec<ShardHandle>,
    ) -> Self {
        Self { metrics, readiness, guard, api: Api::new(shards) }
    }

    /// The answer to a request; its body does not matter to any.
    pub(super) async fn answer(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Response<Full<Bytes>> {
        let mut response = match path.strip_prefix("/api/") {
            Some(rest) => self.api(method, rest, query, headers).await,
            None if matches!(*method, Method::GET | Method::HEAD) => self.public(path).await,
            None => method_not_allowed("GET, HEAD"),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        response
    }

    async fn public(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/" => respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.clone()),
            "/metrics" => respond(StatusCode::OK, CONTENT_TYPE, self.metrics.text()),
            "/healthz" => {
                let api = self.api.clone();
                match blocking(move || api.silent_shard()).await {
                    None => respond(StatusCode::OK, TEXT, "ok\n"),
                    Some(shard) => respond(
                        StatusCode::SERVICE_UNAVAILABLE,
                        TEXT,
                        format!("shard {shard} does not answer\n"),
                    ),
                }
            }
            "/readyz" => match self.readiness.obstacle() {
                None => respond(StatusCode::OK, TEXT, "ready\n"),
                Some(obstacle) => {
                    respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {obstacle}\n"))
                }
            },
            _ => respond(
                StatusCode::NOT_FOUND,
                TEXT,
                "not found; there are /, /metrics, /healthz, /readyz and /api/connections\n",
            ),
        }
    }

    async fn api(
        &self,
        method: &Method,
        rest: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Response<Full<Bytes>> {
        if let Err((status, reason)) = self.guard.admit(headers) {
            return json(api::error(status, reason));
        }
        let api = self.api.clone();
        let answer = match (rest.split_once('/'), method.as_str()) {
            (None, "GET") if rest == "connections" => {
                let query = query.to_owned();
                blocking(move || api.sample(&query)).await
            }
            (Some(("connections", id)), "GET") => {
                let id = id.to_owned();
                blocking(move || api.look_up(&id)).await
            }
            (Some(("connections", id)), "DELETE") => {
                let id = id.to_owned();
                blocking(move || api.close(&id)).await
            }
            (None, _) if rest == "connections" => return method_not_allowed("GET"),
            (Some(("connections", _)), _) => return method_not_allowed("GET, DELETE"),
            _ => api::error(StatusCode::NOT_FOUND, "there are /api/connections and /api/connections/ID"),
        };
        json(answer)
    }
}

/// Runs what waits for a shard beside the server's thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("questions to shards do not panic")
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn json((status, value): Answer) -> Response<Full<Bytes>> {
    let mut response = respond(status, "application/json", format!("{value}\n"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("allowed: {allowed}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
