//! stub
use crate::config::pty::Server;
use crate::error::Result;
pub fn bind(_: &Server) -> Result<()> {
    Ok(())
}
pub fn start(_: &Server) -> Result<()> {
    Ok(())
}
