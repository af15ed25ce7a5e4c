//! The methods of MCP, by protocol era.

use super::version::Era;

/// The member of `params` that names what a method is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `params.name`.
    Name,
    /// `params.uri`.
    Uri,
    /// `params.taskId`.
    TaskId,
    /// `params.ref`, by its `type`.
    Reference,
}

/// The label of a method that is not known.
pub const OTHER: &str = "other";

macro_rules! methods {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $legacy:literal, $modern:literal;)*) => {
        /// A method of some revision of the protocol, in either direction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Method {
            $(
                #[doc = concat!("`", $name, "`")]
                $(#[doc = $doc])*
                $variant,
            )*
        }

        impl Method {
            /// All known methods.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Finds a method by its exact name. Names are case-sensitive.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Whether the method belongs to an era.
            #[must_use]
            pub const fn is_in(self, era: Era) -> bool {
                let (legacy, modern) = match self {
                    $(Self::$variant => ($legacy, $modern),)*
                };
                match era {
                    Era::Legacy => legacy,
                    Era::Modern => modern,
                }
            }
        }
    };
}

methods! {
    // name on the wire, in the legacy era, in the modern era
    Initialize = "initialize", true, false;
    Ping = "ping", true, false;
    Discover = "server/discover", false, true;
    ToolsList = "tools/list", true, true;
    ToolsCall = "tools/call", true, true;
    PromptsList = "prompts/list", true, true;
    PromptsGet = "prompts/get", true, true;
    ResourcesList = "resources/list", true, true;
    ResourcesTemplatesList = "resources/templates/list", true, true;
    ResourcesRead = "resources/read", true, true;
    ResourcesSubscribe = "resources/subscribe", true, false;
    ResourcesUnsubscribe = "resources/unsubscribe", true, false;
    SubscriptionsListen = "subscriptions/listen", false, true;
    CompletionComplete = "completion/complete", true, true;
    LoggingSetLevel = "logging/setLevel", true, false;
    TasksGet = "tasks/get", true, true;
    /// (2025-11-25)
    TasksList = "tasks/list", true, false;
    /// (2025-11-25)
    TasksResult = "tasks/result", true, false;
    TasksUpdate = "tasks/update", false, true;
    TasksCancel = "tasks/cancel", true, true;
    /// (server to client)
    SamplingCreateMessage = "sampling/createMessage", true, false;
    /// (server to client)
    ElicitationCreate = "elicitation/create", true, false;
    /// (server to client)
    RootsList = "roots/list", true, false;
    Initialized = "notifications/initialized", true, false;
    Cancelled = "notifications/cancelled", true, true;
    Progress = "notifications/progress", true, true;
    LogMessage = "notifications/message", true, true;
    RootsListChanged = "notifications/roots/list_changed", true, false;
    ToolsListChanged = "notifications/tools/list_changed", true, true;
    PromptsListChanged = "notifications/prompts/list_changed", true, true;
    ResourcesListChanged = "notifications/resources/list_changed", true, true;
    ResourcesUpdated = "notifications/resources/updated", true, true;
    SubscriptionsAcknowledged = "notifications/subscriptions/acknowledged", false, true;
    /// (2025-11-25)
    TasksStatus = "notifications/tasks/status", true, false;
    Tasks = "notifications/tasks", false, true;
    ElicitationComplete = "notifications/elicitation/complete", true, true;
}

impl Method {
    /// The member of `params` that names what this method is about, if there is one.
    #[must_use]
    pub const fn target(self) -> Option<Target> {
        match self {
            Self::ToolsCall | Self::PromptsGet => Some(Target::Name),
            Self::ResourcesRead | Self::ResourcesSubscribe | Self::ResourcesUnsubscribe => Some(Target::Uri),
            Self::TasksGet | Self::TasksResult | Self::TasksUpdate | Self::TasksCancel => Some(Target::TaskId),
            Self::CompletionComplete => Some(Target::Reference),
            _ => None,
        }
    }
}

/// [`Method::target`] by name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    Method::parse(name)?.target()
}

/// Whether an era knows a method of exactly this name.
///
/// Rules name the methods that exist; a method that no rule can name must not pass as an exception to them.
#[must_use]
pub fn is_known(era: Era, name: &str) -> bool {
    Method::parse(name).is_some_and(|method| method.is_in(era))
}

/// The method's name for a metric, [`OTHER`] if it is not known.
///
/// Senders choose the method, so only the known ones may become a label.
#[must_use]
pub fn label(name: &str) -> &'static str {
    Method::parse(name).map_or(OTHER, Method::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_name_and_belongs_to_an_era() {
        for &method in Method::ALL {
            assert_eq!(Method::parse(method.as_str()), Some(method));
            assert!(method.is_in(Era::Legacy) || method.is_in(Era::Modern));
            assert_eq!(label(method.as_str()), method.as_str());
        }
    }

    #[test]
    fn names_are_exact() {
        for name in ["tools/call ", "Tools/call", "tools/Call", "", "x/invoke", "tools", "TOOLS/CALL"] {
            assert!(!is_known(Era::Legacy, name) && !is_known(Era::Modern, name), "{name}");
            assert_eq!(label(name), OTHER);
        }
    }

    #[test]
    fn the_handshake_is_unknown_to_the_modern_era() {
        for name in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
            assert!(is_known(Era::Legacy, name) && !is_known(Era::Modern, name), "{name}");
        }
        assert!(is_known(Era::Modern, "server/discover") && !is_known(Era::Legacy, "server/discover"));
    }
}
