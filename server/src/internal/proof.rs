//! The proof on both sides of an internal exchange, between headers and `storage`'s signatures.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use storage::{Asked, FleetSecret, Nonce, RelayHead, Verified};

/// A question whose sender belongs to the fleet.
pub(super) struct Proved<'a> {
    verified: Verified,
    asked: Asked<'a>,
    nonce: Nonce,
}

impl<'a> Proved<'a> {
    /// Checks the question's proof.
    ///
    /// # Errors
    ///
    /// The status for whoever has none; that answer is not signed.
    pub(super) fn check(
        request: &HttpRequest,
        secret: &FleetSecret,
        asked: Asked<'a>,
    ) -> Result<Self, StatusCode> {
        if !secret.is_set() {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let header = |name: &str| request.headers().get(name)?.to_str().ok();
        let nonce = header("corral-nonce").and_then(|nonce| nonce.parse::<Nonce>().ok());
        let proved = nonce.and_then(|nonce| {
            let mac = header("corral-mac")?;
            let verified = secret.verify_request(asked, nonce, mac)?;
            Some(Self {
                verified,
                asked,
                nonce,
            })
        });
        proved.ok_or(StatusCode::UNAUTHORIZED)
    }

    /// Begins an answer that proves itself and what `head` says.
    pub(super) fn answer(&self, status: StatusCode, head: RelayHead<'_>) -> HttpResponseBuilder {
        let mac = self
            .verified
            .sign_response(self.asked, self.nonce, status.as_u16(), head);
        let mut response = HttpResponse::build(status);
        response.insert_header(("corral-mac", mac));
        response
    }
}
