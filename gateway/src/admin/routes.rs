//! What is served where.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{self, HeaderValue},
    http::request::Parts,
};
use roost_router::shell::{
    exposition::Format,
    http::{Body, Service, method_not_allowed, reads, respond, text},
};
use tokio::{sync::Semaphore, task::yield_now};

use super::{
    api::{self, Answer, Api, blocking},
    guard::Guard,
    health::Health,
};
use crate::{
    event_loop::ShardHandle,
    metrics::{Metrics, Readiness},
};

/// The page with everything in it: it fetches nothing but `/metrics` and `/api/`.
static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
    let page = include_str!("../../assets/page.html");
    Bytes::from(page.replace("/* plot.js */", include_str!("../../../protocol/assets/plot.js")))
});

/// Keeps the page from loading or leaking anything, and from being framed.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Questions to shards at a time, besides that of `/healthz`: each takes a thread while it waits.
const QUESTIONS_MAX: usize = 4;

/// Everything that requests are answered from.
#[derive(Debug)]
pub(super) struct Routes {
    metrics: Metrics,
    readiness: Arc<Readiness>,
    guard: Guard,
    api: Api,
    health: Health,
    scrape: Semaphore,
    questions: Semaphore,
}

impl Routes {
    pub(super) fn new(
        metrics: Metrics,
        readiness: Arc<Readiness>,
        guard: Guard,
        shards: Vec<ShardHandle>,
    ) -> Self {
        let api = Api::new(shards);
        let health = Health::new(api.clone());
        let (scrape, questions) = (Semaphore::new(1), Semaphore::new(QUESTIONS_MAX));
        Self { metrics, readiness, guard, api, health, scrape, questions }
    }
}

impl Service for Routes {
    async fn answer(&self, request: &Parts, _: Body) -> Response<Full<Bytes>> {
        let (method, path) = (&request.method, request.uri.path());
        let mut response = match path.strip_prefix("/api/") {
            Some(rest) => self.api(method, rest, request.uri.query().unwrap_or(""), &request.headers).await,
            None if reads(method) => self.public(path, &request.headers).await,
            None => method_not_allowed("GET, HEAD"),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        response
    }
}

impl Routes {
    async fn public(&self, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        match path {
            "/" => {
                respond(StatusCode::OK, HeaderValue::from_static("text/html; charset=utf-8"), PAGE.clone())
            }
            "/metrics" => self.metrics(Format::accepted(headers)).await,
            "/healthz" => match self.health.silent_shard().await {
                None => text(StatusCode::OK, "ok\n"),
                Some(shard) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("shard {shard} does not answer\n"))
                }
            },
            "/readyz" => match self.readiness.obstacle() {
                None => text(StatusCode::OK, "ready\n"),
                Some(obstacle) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {obstacle}\n")),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; there are /, /metrics, /healthz, /readyz and /api/connections\n",
            ),
        }
    }

    /// One scrape is written at a time, and others are served before the next: however many are
    /// asked for, health waits for one.
    async fn metrics(&self, format: Format) -> Response<Full<Bytes>> {
        let _turn = self.scrape.acquire().await;
        let mut response = respond(StatusCode::OK, format.content_type(), self.metrics.text(format));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        yield_now().await;
        response
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
        let _question = self.questions.acquire().await;
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

fn json((status, value): Answer) -> Response<Full<Bytes>> {
    let mut response = respond(status, HeaderValue::from_static("application/json"), format!("{value}\n"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
