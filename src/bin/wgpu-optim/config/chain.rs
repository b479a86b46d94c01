//! The tables of the chain: `[clip]`, `[scaler]`, `[ema]`, `[clamp]`.

use toml::Table;
use wgpu_optim::rule::{Value, Word};
use wgpu_optim::{Chain, Clamp, Clip, ClipForm, Ema, Error, Norm, Over, Scaler};

use super::keys::Keys;

/// The key of `[clip]` for each thing that a clip looks at together.
const CLIPS: [(&str, Over); 4] =
    [("global_norm", Over::All), ("group_norm", Over::Group), ("tensor_norm", Over::Tensor), ("value", Over::Value)];
/// What frameworks call these keys.
const SYNONYMS: [(&str, &str); 9] = [
    ("max_norm", "global_norm"),
    ("global_clipnorm", "global_norm"),
    ("norm_type", "norm"),
    ("clipnorm", "tensor_norm"),
    ("clipvalue", "value"),
    ("clip_value", "value"),
    ("momentum", "decay"),
    ("ema_momentum", "decay"),
    ("ema_overwrite_frequency", "overwrite_every"),
];

/// Takes the tables of the chain out of a config's settings.
///
/// # Errors
/// With the table, the key, and what is wrong with it.
pub fn take(settings: &mut Table, preset: &str) -> Result<Chain, String> {
    let chain = Chain {
        clip: Keys::take(settings, "clip")?.map(|keys| clip(keys, preset)).transpose()?,
        scaler: Keys::take(settings, "scaler")?.map(scaler).transpose()?,
        ema: Keys::take(settings, "ema")?.map(ema).transpose()?,
        clamp: Keys::take(settings, "clamp")?.map(clamp).transpose()?,
        ..Chain::default()
    };
    chain.check().map_err(|error| refused(&chain, &error))?;
    Ok(chain)
}

/// The chain as tables: what a config would say, and nothing left to defaults.
pub fn tables(chain: &Chain) -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let mut tables = Vec::new();
    if let Some(clip) = &chain.clip {
        let mut keys = vec![(key_of(clip.over), Value::Number(clip.max))];
        if clip.over != Over::Value {
            keys.extend([("norm", word(clip.norm)), ("form", word(clip.form))]);
        }
        tables.push(("clip", keys));
    }
    if let Some(Scaler { init_scale, growth_factor, backoff_factor, growth_interval }) = chain.scaler {
        let numbers = [
            ("init_scale", init_scale),
            ("growth_factor", growth_factor),
            ("backoff_factor", backoff_factor),
            ("growth_interval", growth_interval.into()),
        ];
        tables.push(("scaler", numbers.map(|(key, x)| (key, Value::Number(x))).into()));
    }
    if let Some(Ema { decay, overwrite_every }) = chain.ema {
        let numbers = [("decay", decay), ("overwrite_every", overwrite_every.into())];
        tables.push(("ema", numbers.map(|(key, x)| (key, Value::Number(x))).into()));
    }
    if let Some(Clamp { min, max }) = chain.clamp {
        tables.push(("clamp", [("min", min), ("max", max)].map(|(key, x)| (key, Value::Number(x))).into()));
    }
    tables
}

fn clip(mut keys: Keys, preset: &str) -> Result<Clip, String> {
    let given: Vec<&str> = CLIPS.iter().map(|(key, _)| *key).filter(|key| keys.has(key)).collect();
    let mut found = None;
    for (key, over) in CLIPS {
        found = keys.number(key)?.map(|max| (key, max, over)).or(found);
    }
    let (norm, form) = (keys.word("norm")?, keys.word("form")?);
    let all = CLIPS.map(|(key, _)| key).join(", ");
    let missing = keys.about(&format!("needs one of {all}, as in global_norm = 1.0"));
    let twice = keys.about(&format!("has {}, and only one of {all} can stand there", given.join(" and ")));
    let idle = keys.about("has value, which takes no norm; leave norm and form out");
    keys.done(&SYNONYMS)?;
    let Some((_, max, over)) = found else { return Err(missing) };
    if given.len() > 1 {
        return Err(twice);
    }
    if over == Over::Value && (norm.is_some() || form.is_some()) {
        return Err(idle);
    }
    let form = form.unwrap_or(form_of(preset));
    Ok(Clip { max, over, norm: norm.unwrap_or(Norm::L2), form })
}

/// How the framework of a preset makes a factor of a norm. The textbook's is that of optax.
fn form_of(preset: &str) -> ClipForm {
    match preset {
        "keras" | "tf-keras-legacy" => ClipForm::Keras,
        "optax" | "article" => ClipForm::Optax,
        _ => ClipForm::PyTorch,
    }
}

fn scaler(mut keys: Keys) -> Result<Scaler, String> {
    let default = Scaler::PYTORCH;
    let scaler = Scaler {
        init_scale: keys.number("init_scale")?.unwrap_or(default.init_scale),
        growth_factor: keys.number("growth_factor")?.unwrap_or(default.growth_factor),
        backoff_factor: keys.number("backoff_factor")?.unwrap_or(default.backoff_factor),
        growth_interval: keys.count("growth_interval")?.unwrap_or(default.growth_interval),
    };
    keys.done(&SYNONYMS)?;
    Ok(scaler)
}

fn ema(mut keys: Keys) -> Result<Ema, String> {
    let default = Ema::KERAS;
    let ema = Ema {
        decay: keys.number("decay")?.unwrap_or(default.decay),
        overwrite_every: keys.count("overwrite_every")?.unwrap_or(default.overwrite_every),
    };
    keys.done(&SYNONYMS)?;
    Ok(ema)
}

fn clamp(mut keys: Keys) -> Result<Clamp, String> {
    let (min, max) = (keys.number("min")?, keys.number("max")?);
    let missing = keys.about("needs min or max, as in min = -1.0");
    keys.done(&SYNONYMS)?;
    // An end that is left open is the furthest that a parameter can lie.
    let most = f64::from(f32::MAX);
    match (min, max) {
        (None, None) => Err(missing),
        (min, max) => Ok(Clamp { min: min.unwrap_or(-most), max: max.unwrap_or(most) }),
    }
}

/// The chain's own refusal, in the words of the config.
fn refused(chain: &Chain, error: &Error) -> String {
    let Error::Setting { setting, found, expected, .. } = error else { return error.to_string() };
    let Some((table, field)) = setting.split_once('.') else { return error.to_string() };
    let key = match &chain.clip {
        Some(clip) if table == "clip" => key_of(clip.over),
        _ => field,
    };
    format!("[{table}] {key} is {found}, expected {}", expected.replace(setting, key))
}

fn key_of(over: Over) -> &'static str {
    CLIPS.iter().find(|(_, known)| *known == over).map_or("", |(key, _)| key)
}

fn word<W: Word>(choice: W) -> Value {
    let word = W::WORDS.iter().find(|(_, known)| *known == choice);
    Value::Word(word.map_or("", |(word, _)| word).into())
}
