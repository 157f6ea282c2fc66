/*
 * incarnation.hpp -- the statements about jobqueue.incarnation: which database and server the tasks belong to.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* Does the incarnation name this database and this server, and are the tasks its own? */
struct Standing {
	bool own = false;
	bool settled = false;		   /* the incarnation says which server this is */
	const char *reason = nullptr;  /* why it is not our own */
	const char *told_by = nullptr; /* why, if the table does not say so yet: disown() */
};
Standing standing();
bool is_own_incarnation();
/* Does a subscription bring tasks into this database? */
bool is_replicated();
/* Writes down which server this is. */
void settle();
/* From now on the database is nobody's, until adopt(), even if what told us so is gone. */
void disown();
/*
 * Makes the database, and handlers that came from elsewhere, this installation's. False if they were already. New ids
 * are above those in use.
 */
bool adopt();

/* If the installation is younger than "now", because the clock was set back, makes it older; true if it was. */
bool correct_installation(TimestampTz now);

} // namespace jobqueue::store
