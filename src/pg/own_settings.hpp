/*
 * own_settings.hpp -- the settings of the extension's own processes. They must not depend on what is set for the
 * server, a database or a role: those settings are for the handlers. noexcept functions touch variables only; the
 * others are C regions.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/*
 * While this object lives, statements are the process's own: no lock_timeout but this one (0: none), no
 * temp_file_limit, and row_security is on. The destructor restores the settings. Safe in C++ regions.
 */
class OwnSettings {
public:
	explicit OwnSettings(int lock_timeout_ms = 0) noexcept;
	~OwnSettings();
	OwnSettings(const OwnSettings &) = delete;
	OwnSettings &operator=(const OwnSettings &) = delete;

private:
	const int lock_timeout_;
	const int temp_file_limit_;
	const bool row_security_;
};

/* Must be called before the process connects: no setting ends its transactions, or makes them others than it wants. */
void pin_settings();
/*
 * The same for a process that runs handlers, once it is connected. Returns the transaction_timeout that it found, in
 * milliseconds, 0 = none: somebody must enforce it.
 */
int pin_settings_around_handlers();

} // namespace jobqueue
