/*
 * handler_signature.hpp -- which functions can be handlers and back-off functions, and how they are stored. C++ region,
 * but where it says otherwise.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue {

/* Throws Error 42P13 with the reason if the function cannot be a handler. */
void check_handler_signature(Oid function);
/* Does this handler take an array: several tasks at once? */
bool is_batch_handler(Oid function);
/* Throws Error 42P13 with the reason if the function cannot be a back-off function. */
void check_backoff_signature(Oid function);
/* What to store for a function: its schema-qualified signature. */
std::string handler_signature(Oid function);

/* Why the function cannot be a handler, or a back-off function; null if it can. C region. */
const char *handler_problem(Oid function);
const char *backoff_problem(Oid function);
/* The type of the elements of the array that a batch handler takes; InvalidOid for other functions. C region. */
Oid batch_element(const FormData_pg_proc *form);

} // namespace jobqueue
