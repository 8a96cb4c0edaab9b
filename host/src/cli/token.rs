//! `littoral token`: access tokens of this installation.

use anyhow::{Context, bail};
use clap::{Subcommand, builder::NonEmptyStringValueParser};

use crate::{
    admin::keys,
    cli::store::At,
    tokens::{self, Mint, Secret, Subject},
};

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Mints an access token for the holder of a key and prints it.
    Create {
        /// Id of the key; the token may do what the key may.
        key_id: String,
        /// How long it is good: 90s, 15m. By default token.lifetime_s.
        #[arg(long, value_name = "DURATION", value_parser = keys::duration_ms)]
        lifetime: Option<u64>,
        #[command(flatten)]
        at: At,
    },
    /// Refuses tokens from now on, at every edge within a second.
    Revoke {
        /// One token, by its claim jti.
        #[arg(long, value_parser = NonEmptyStringValueParser::new(), conflicts_with = "subject")]
        jti: Option<String>,
        /// Every token of a subject that was issued until now, by its claim sub, and what would refresh them.
        #[arg(long, value_parser = NonEmptyStringValueParser::new(), requires = "tenant")]
        subject: Option<String>,
        /// The tenant of the subject: another may have one of the same name.
        #[arg(long, value_parser = NonEmptyStringValueParser::new(), requires = "subject")]
        tenant: Option<String>,
        /// Whose tokens; by default token.issuer.
        #[arg(long)]
        issuer: Option<String>,
        #[command(flatten)]
        at: At,
    },
}

impl Token {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { key_id, lifetime, at } => {
                let config = at.read()?;
                let most_s = config.token.rules().map_or(u64::MAX, |rules| rules.max_lifetime_s);
                if lifetime.is_some_and(|ms| ms < 1000 || ms / 1000 > most_s) {
                    bail!("--lifetime must be at least 1s and at most {most_s}s, which is what the edges take");
                }
                at.with(async |store| {
                    let mint = Mint::load(&config.token, store, Secret::existing).await?;
                    let mint = mint.context("token.issuer is not set; --config names the file that sets it")?;
                    let record = keys::record(store, &key_id).await?;
                    let (tenant, user, client_id) = (record.tenant, record.user, record.id);
                    let subject = Subject { tenant, user, client_id, ..Subject::default() };
                    println!("{}", mint.access(&subject, lifetime.map(|ms| ms / 1000))?.access_token);
                    Ok(())
                })
            }
            Self::Revoke { jti, subject, tenant, issuer, at } => {
                if jti.is_none() && subject.is_none() {
                    bail!(
                        "what is to be revoked? One token with --jti, or all of a user's with --subject and --tenant"
                    );
                }
                let config = at.read()?;
                let issuer =
                    issuer.or(config.token.issuer).context("--issuer, or token.issuer of --config, is needed")?;
                at.with(async |store| {
                    if let Some(jti) = jti {
                        tokens::revoke_token(store, &issuer, &jti).await?;
                    }
                    if let (Some(subject), Some(tenant)) = (subject, tenant) {
                        tokens::revoke_subject(store, &issuer, &tenant, &subject).await?;
                    }
                    Ok(())
                })
            }
        }
    }
}
