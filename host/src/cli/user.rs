//! `littoral user`: second factors.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Subcommand;
use qrcode::{QrCode, render::unicode::Dense1x2};

use crate::{
    admin::factors,
    cli::store::At,
    tokens::{Secret, Signer},
};

#[derive(Debug, Subcommand)]
pub enum User {
    /// Gives a user a second factor and shows it, once: a QR code for an authenticator, and recovery codes.
    Enrol {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        user: String,
        /// The secret that seals it; by default token.secret_file of the configuration, as every edge has it.
        #[arg(long, value_name = "FILE", env = "LITTORAL_SECRET")]
        secret: Option<PathBuf>,
        #[command(flatten)]
        at: At,
    },
    /// Takes a user's second factor away.
    Reset {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        user: String,
        #[command(flatten)]
        at: At,
    },
}

impl User {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Enrol { tenant, user, secret, at } => {
                let secret = Secret::existing(&secret.map_or_else(|| Ok(at.read()?.token.secret_file), anyhow::Ok)?)?;
                at.with(async |store| {
                    Signer::check(store, &secret).await?;
                    let enrolled = factors::enrol(store, &secret, &tenant, &user).await?;
                    let code = QrCode::new(&enrolled.uri).context("the QR code cannot be drawn")?;
                    // Light on dark, as terminals are; scanners read either.
                    let drawn =
                        code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
                    let mut out = io::stdout().lock();
                    writeln!(out, "{drawn}\n\n{}\n\nrecovery codes, each good once:", enrolled.uri)?;
                    enrolled.recovery_codes.iter().try_for_each(|code| writeln!(out, "  {code}"))?;
                    Ok(())
                })
            }
            Self::Reset { tenant, user, at } => at.with(async |store| {
                let was = factors::reset(store, &tenant, &user).await?;
                println!("{}", if was { "the second factor is gone" } else { "there was no second factor" });
                Ok(())
            }),
        }
    }
}
