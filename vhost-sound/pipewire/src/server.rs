//! The connection to PipeWire.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pipewire::context::ContextRc;
use pipewire::core::{CoreRc, Listener, PW_ID_CORE};
use pipewire::loop_::{Loop, Timeout};
use pipewire::main_loop::MainLoopRc;
use pipewire::properties::properties;
use vhost_sound::host::helper::far::Options;

/// Why PipeWire is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("PipeWire cannot be reached, which has to run as this user: {0}")]
    Connect(pipewire::Error),
    #[error("PipeWire does not answer")]
    Silent,
    #[error("PipeWire has gone: {0}")]
    Gone(String),
    #[error("PipeWire has no node {0} that can be {1}")]
    Missing(String, &'static str),
}

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// PipeWire, as a client sees it.
pub(crate) struct Server {
    failure: Rc<RefCell<Option<String>>>,
    _listener: Listener,
    pub(crate) core: CoreRc,
    events: MainLoopRc,
}

impl Server {
    pub(crate) fn connect() -> Result<Self, ServerError> {
        pipewire::init();
        let events = MainLoopRc::new(None).map_err(ServerError::Connect)?;
        // With the threads that samples are moved on at a priority that they need, where the user may have that.
        let prompt = properties! { "config.name" => "client-rt.conf" };
        let context = ContextRc::new(&events, Some(prompt));
        let context = context.or_else(|_| ContextRc::new(&events, None));
        let context = context.map_err(ServerError::Connect)?;
        let core = context.connect_rc(None).map_err(ServerError::Connect)?;
        let failure = Rc::<RefCell<Option<String>>>::default();
        let failed = Rc::clone(&failure);
        let listener = core.add_listener_local();
        let listener = listener.error(move |id, _, _, message| {
            if id == PW_ID_CORE {
                *failed.borrow_mut() = Some(message.to_owned());
            } else {
                log::error!("PipeWire: {message}");
            }
        });
        Ok(Self { failure, _listener: listener.register(), core, events })
    }

    /// What happens there.
    pub(crate) fn events(&self) -> &Loop {
        self.events.loop_()
    }

    /// Whether it has gone.
    pub(crate) fn failure(&self) -> Result<(), ServerError> {
        match self.failure.borrow_mut().take() {
            Some(message) => Err(ServerError::Gone(message)),
            None => Ok(()),
        }
    }

    /// Sees whether it answers, and has what is to be played to or recorded from.
    pub(crate) fn check(&self, options: &Options) -> Result<(), ServerError> {
        let (class, verb) = match options.capture {
            false => ("Audio/Sink", "played to"),
            true => ("Audio/Source", "recorded from"),
        };
        let found = Rc::new(Cell::new(options.target.is_none()));
        let (seen, wanted) = (Rc::clone(&found), options.target.clone());
        let registry = self.core.get_registry().map_err(ServerError::Connect)?;
        let listener = registry.add_listener_local();
        let _listener = listener
            .global(move |global| {
                let Some(properties) = global.props else { return };
                let names = ["node.name", "object.serial"].map(|key| properties.get(key));
                let is_named = names.contains(&wanted.as_deref());
                // A sink's monitor can be recorded from, and a duplex node is both.
                let has_class = properties.get("media.class").is_some_and(|its| {
                    its == class
                        || its == "Audio/Duplex"
                        || (class == "Audio/Source" && its == "Audio/Sink")
                });
                if is_named && has_class {
                    seen.set(true);
                }
            })
            .register();
        // All that is there is told before this is answered.
        let wanted = self.core.sync(0).map_err(ServerError::Connect)?;
        let answered = Rc::new(Cell::new(false));
        let done = Rc::clone(&answered);
        let listener = self.core.add_listener_local();
        let _done = listener
            .done(move |id, sequence| {
                if id == PW_ID_CORE && sequence == wanted {
                    done.set(true);
                }
            })
            .register();
        let begun = Instant::now();
        while !answered.get() {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(ServerError::Silent);
            }
            self.events().iterate(Timeout::Finite(left));
            self.failure()?;
        }
        match &options.target {
            Some(name) if !found.get() => Err(ServerError::Missing(name.clone(), verb)),
            _ => Ok(()),
        }
    }
}
