//! The admin API.

use std::sync::Arc;

use crate::app::App;

/// The routes of the admin API, with its own authentication.
pub fn router(_app: Arc<App>) -> axum::Router {
    axum::Router::new()
}
