// Records requests to stop, which arrive as signals.
#pragma once

namespace bipo {

// Makes SIGUSR1, SIGTERM and SIGINT set a flag only; a second SIGINT ends the program as usual.
void install_stop_signals();

// Returns whether one of these signals has arrived.
bool stop_signal_received();

}  // namespace bipo
