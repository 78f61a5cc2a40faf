//! The machine-readable reasons that errors carry in `google.rpc.ErrorInfo`.

use std::fmt;

/// The `domain` of every ErrorInfo of Conti.
pub const DOMAIN: &str = "conti.v1";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Why a call was not carried out. Its text is part of the API and never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The text, UPPER_SNAKE_CASE.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $text,)* }
            }

            /// The reason of a text, where it is known.
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A field of the request is at fault; BadRequest names it.
    InvalidField = "INVALID_FIELD",
    /// A message of a stream came out of turn.
    InvalidSequence = "INVALID_SEQUENCE",
    /// There is no such container.
    ContainerNotFound = "CONTAINER_NOT_FOUND",
    /// A prefix fits more than one container.
    ContainerAmbiguous = "CONTAINER_AMBIGUOUS",
    /// The container's state does not allow it.
    ContainerWrongState = "CONTAINER_WRONG_STATE",
    /// The container's name is taken.
    NameTaken = "NAME_TAKEN",
    /// The request id is that of an earlier request, which asked for something else: metadata `request_id`.
    RequestIdTaken = "REQUEST_ID_TAKEN",
    /// There is no such mount.
    MountNotFound = "MOUNT_NOT_FOUND",
    /// Something is being mounted in the container or around it, and who may have that is not known yet. The call can
    /// be repeated.
    MountUnderWay = "MOUNT_UNDER_WAY",
    /// There is no such session.
    SessionNotFound = "SESSION_NOT_FOUND",
    /// The session's state does not allow it.
    SessionWrongState = "SESSION_WRONG_STATE",
    /// The process to be entered is not there, or another has its pid.
    ProcessGone = "PROCESS_GONE",
    /// The cgroup of the target is frozen: metadata `file` names what says so. A command in it would not begin, a
    /// signal not be heard.
    TargetFrozen = "TARGET_FROZEN",
    /// A process that the agent waits for does not answer: metadata `role`, `pid`, `state` and `tried` say which,
    /// and what was done. The call can be repeated.
    ProcessStuck = "PROCESS_STUCK",
    /// A step of the set-up failed: metadata `step`, `argument` and `errno` say which.
    SetupFailed = "SETUP_FAILED",
    /// The kernel refused what was tried on a target: metadata `tried`, `argument` and `errno` say it.
    Refused = "REFUSED",
    /// The command is not in the target.
    CommandNotFound = "COMMAND_NOT_FOUND",
    /// The command could not be executed.
    CommandNotExecutable = "COMMAND_NOT_EXECUTABLE",
    /// The offset of a write lies past what was taken.
    InputOffset = "INPUT_OFFSET",
    /// The caller's role or the agent's policy does not allow it: metadata `identity`, `role` and `needs`
    /// say which would, and `grant` what an operator can be granted to do it.
    PermissionDenied = "PERMISSION_DENIED",
    /// The agent does not know who calls.
    Unauthenticated = "UNAUTHENTICATED",
    /// There is no such method.
    MethodUnknown = "METHOD_UNKNOWN",
    /// A reason for the call has to be given, and none was.
    ReasonRequired = "REASON_REQUIRED",
    /// The call could not be written into the audit log, so it was not carried out.
    AuditFailed = "AUDIT_FAILED",
    /// The invitation cannot be used.
    InvitationRefused = "INVITATION_REFUSED",
    /// There is no such invitation.
    InvitationNotFound = "INVITATION_NOT_FOUND",
    /// There is no such certificate.
    CertificateNotFound = "CERTIFICATE_NOT_FOUND",
    /// Certificates that may be meant have records that cannot be read: metadata `serials` names them. Those that are
    /// known to be meant were revoked.
    CertificateUnread = "CERTIFICATE_UNREAD",
    /// The agent has no certificate authority of its own.
    NoAuthority = "NO_AUTHORITY",
    /// There is no recording of the session.
    RecordingNotFound = "RECORDING_NOT_FOUND",
    /// The host is out of something.
    ResourceExhausted = "RESOURCE_EXHAUSTED",
    /// The agent is stopping.
    AgentStopping = "AGENT_STOPPING",
    /// A defect of the agent: its log says more.
    Internal = "INTERNAL",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
