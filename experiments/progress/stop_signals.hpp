// Requests to stop, which arrive as signals.
#pragma once

namespace bipo {

// From now on SIGUSR1, SIGTERM and SIGINT only take note; a second SIGINT ends the program as
// usual.
void install_stop_signals();

// Whether one of them has come.
bool stop_signal_received();

}  // namespace bipo
