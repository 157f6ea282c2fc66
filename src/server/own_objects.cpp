/*
 * own_objects.cpp -- see own_objects.hpp. C region.
 *
 * The extension's script may do everything, and so may pg_upgrade. What is refused:
 *   - other columns, or another kind of table: tasks move from one table to another, and statements know columns by
 *     their number
 *   - to change the extension's names, defaults, checks, indexes and triggers: statements and promises rest on them
 *   - rules, policies, foreign keys to tasks, row triggers that could keep a task from being claimed or ended
 * Further checks, indexes, statistics, triggers, storage, tablespaces, owners and replica identities are welcome.
 */
#include "server/own_objects.hpp"

#include "pg/extension.hpp"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/tablecmds.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
}

namespace jobqueue {

namespace {

/* The indexes of 10_tasks.sql and the like that belong to no constraint. A test drops each index that there is. */
constexpr const char *own_indexes[] = {"tasks_live_next",	  "tasks_live_group",	  "tasks_live_due",
									   "tasks_live_lease",	  "tasks_live_finished",  "tasks_live_unique_key",
									   "unique_keys_expired", "schedules_next",		  "schedules_held",
									   "schedules_failing",	  "tasks_failed_finished"};
constexpr AttrNumber task_columns = 30;

Oid extension_if_installed() {
	return get_extension_oid("jobqueue", true);
}

bool may_do_as_owner(Oid relation) {
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	if (!HeapTupleIsValid(tuple))
		return false;
	const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return has_privs_of_role(GetUserId(), owner);
}

/* The relation of this name, if it is one of ours and the caller owns it; else InvalidOid. */
Oid own_relation(const RangeVar *name) {
	if (name == nullptr)
		return InvalidOid;
	const Oid relation = RangeVarGetRelid(name, NoLock, true);
	return is_in_own_schema(relation) && may_do_as_owner(relation) ? relation : InvalidOid;
}

bool is_own_index(const char *name) {
	for (const char *own : own_indexes)
		if (strcmp(name, own) == 0)
			return true;
	return false;
}

bool is_member(Oid catalog, Oid object) {
	return OidIsValid(object) && OidIsValid(extension_if_installed()) &&
		   getExtensionOfObject(catalog, object) == extension_if_installed();
}

bool is_own_trigger(Oid relation, const char *name) {
	Relation table = RelationIdGetRelation(relation);
	if (!RelationIsValid(table))
		return false;
	bool own = false;
	const TriggerDesc *triggers = table->trigdesc;
	for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, name) == 0)
			own |= is_member(ProcedureRelationId, triggers->triggers[i].tgfoid) &&
				   get_func_name(triggers->triggers[i].tgfoid)[0] == '_';
	RelationClose(table);
	return own;
}

/* Names that the server gives to CHECK constraints contain "_check"; ours do not, so that is a user's constraint. */
bool is_own_constraint(const char *name) {
	static constexpr const char *prefixes[] = {"tasks_",	  "handlers_",	  "queues_",	  "access_",
											   "limits_",	  "incarnation_", "schedules_",	  "dependencies_",
											   "dependents_", "parents_",	  "unique_keys_", "history_ring_"};
	if (strstr(name, "_check") != nullptr)
		return false;
	for (const char *prefix : prefixes)
		if (strncmp(name, prefix, strlen(prefix)) == 0)
			return true;
	return false;
}

bool is_table_of_tasks(Oid relation) {
	const char *const name = get_rel_name(relation);
	return strcmp(name, "tasks") == 0 || strncmp(name, "tasks_", strlen("tasks_")) == 0;
}

[[noreturn]] void refuse(const char *what, Oid relation, const char *why, const char *hint) {
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("cannot %s \"jobqueue.%s\"", what, get_rel_name(relation)),
			 errdetail("%s", why), errhint("%s", hint)));
}

constexpr const char *moves = "jobqueue moves tasks between tables, and changes their rows by physical position.";
constexpr const char *rests = "The statements of jobqueue depend on it.";
constexpr const char *own_table = "Put data about a task into its payload, into metadata, or into a table of your own.";
constexpr const char *drop_extension = "DROP EXTENSION removes it with everything that belongs to it.";

/* ALTER TABLE */

void check_trigger_change(Oid relation, const AlterTableCmd *command) {
	if (command->name != nullptr && is_own_trigger(relation, command->name))
		refuse("change a trigger of jobqueue on", relation, rests, "You can disable triggers of your own.");
}

void check_subcommand(Oid relation, const AlterTableCmd *command) {
	switch (command->subtype) {
	case AT_SetStatistics:
	case AT_SetOptions:
	case AT_ResetOptions:
	case AT_SetStorage:
	case AT_SetCompression:
	case AT_ClusterOn:
	case AT_DropCluster:
	case AT_SetTableSpace:
	case AT_SetRelOptions:
	case AT_ResetRelOptions:
	case AT_ReplaceRelOptions:
	case AT_SetLogged:
	case AT_ChangeOwner:
	case AT_ValidateConstraint:
	case AT_AlterConstraint:
	case AT_EnableRowSecurity:
	case AT_NoForceRowSecurity:
	case AT_EnableTrigAll:
	case AT_EnableTrigUser:
	case AT_DisableTrigAll: /* a restore of the data alone does it */
	case AT_DisableTrigUser:
	case AT_EnableAlwaysTrig:
		return;
	case AT_EnableTrig:
	case AT_EnableReplicaTrig:
	case AT_DisableTrig:
		check_trigger_change(relation, command);
		return;
	case AT_ReplicaIdentity:
		if (reinterpret_cast<const ReplicaIdentityStmt *>(command->def)->identity_type == REPLICA_IDENTITY_NOTHING)
			refuse("take the replica identity from", relation,
				   "If the table were in a publication, jobqueue could not change its rows.",
				   "Use REPLICA IDENTITY DEFAULT, FULL, or an index.");
		return;
	case AT_AddConstraint:
		if (reinterpret_cast<const Constraint *>(command->def)->contype == CONSTR_CHECK)
			return;
		refuse("add such a constraint to", relation, moves, "Use a CHECK constraint.");
	case AT_DropConstraint:
		if (!is_own_constraint(command->name))
			return;
		refuse("drop a constraint of jobqueue from", relation, rests, drop_extension);
	case AT_DropColumn:
		if (is_table_of_tasks(relation) && get_attnum(relation, command->name) > task_columns)
			return; /* a column that was added while nobody refused it */
		refuse("drop a column of", relation, rests, drop_extension);
	case AT_AddColumn:
		refuse("add a column to", relation, moves, own_table);
	case AT_SetUnLogged:
		refuse("stop logging", relation, "Its rows would be lost when the server crashes, and tasks with them.",
			   "Workers do not wait for the disk anyway: see jobqueue.worker_synchronous_commit.");
	case AT_DisableRowSecurity:
	case AT_ForceRowSecurity:
		refuse("change row-level security of", relation, "It limits roles to their queues.",
			   "Use jobqueue.grant_access() to give access to queues.");
	default:
		refuse("make such a change to", relation, rests,
			   "You can change storage parameters, statistics, tablespaces, indexes, triggers and CHECK constraints.");
	}
}

/* A row that is moved to another table is deleted here: a foreign key would prevent that, or delete the other row. */
void check_reference(const Constraint *constraint) {
	if (constraint->contype != CONSTR_FOREIGN)
		return;
	const Oid referenced = own_relation(constraint->pktable);
	if (OidIsValid(referenced))
		refuse("refer to", referenced, is_table_of_tasks(referenced) ? moves : rests,
			   "Store the id in a column without a foreign key; a trigger of your own can keep it up to date.");
}

void check_new_columns(List *elements) {
	ListCell *cell;
	foreach (cell, elements) {
		Node *element = static_cast<Node *>(lfirst(cell));
		if (nodeTag(element) == T_Constraint)
			check_reference(reinterpret_cast<Constraint *>(element));
		if (nodeTag(element) != T_ColumnDef)
			continue;
		ListCell *inner;
		foreach (inner, reinterpret_cast<ColumnDef *>(element)->constraints)
			check_reference(static_cast<Constraint *>(lfirst(inner)));
	}
}

void refuse_children(const RangeVar *parent) {
	const Oid table = own_relation(parent);
	if (OidIsValid(table))
		refuse("make a child or partition of", table, rests, own_table);
}

void check_alter_table(const AlterTableStmt *statement) {
	const Oid relation = own_relation(statement->relation);
	ListCell *cell;
	foreach (cell, statement->cmds) {
		const auto *command = static_cast<const AlterTableCmd *>(lfirst(cell));
		if (OidIsValid(relation)) {
			check_subcommand(relation, command);
			continue;
		}
		if (command->subtype == AT_AddInherit)
			refuse_children(reinterpret_cast<const RangeVar *>(command->def));
		else if (command->subtype == AT_AddConstraint || command->subtype == AT_AddColumn)
			check_new_columns(list_make1(command->def));
	}
}

void check_create_table(const CreateStmt *statement) {
	ListCell *cell;
	foreach (cell, statement->inhRelations)
		refuse_children(static_cast<const RangeVar *>(lfirst(cell)));
	check_new_columns(statement->tableElts);
	check_new_columns(statement->constraints);
}

/* Names */

constexpr const char *by_name = "The library finds it by its name.";

void refuse_member(Oid catalog, Oid object, const char *what) {
	if (is_member(catalog, object) && superuser())
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot %s a member of extension \"jobqueue\"", what), errdetail("%s", by_name)));
}

void refuse_member_named(ObjectType type, Node *object, const char *what) {
	switch (type) {
	case OBJECT_FUNCTION:
	case OBJECT_PROCEDURE:
	case OBJECT_ROUTINE:
		refuse_member(ProcedureRelationId, LookupFuncWithArgs(type, castNode(ObjectWithArgs, object), true), what);
		break;
	case OBJECT_TYPE:
	case OBJECT_DOMAIN:
		refuse_member(TypeRelationId,
					  LookupTypeNameOid(nullptr, makeTypeNameFromNameList(castNode(List, object)), true), what);
		break;
	default:
		break;
	}
}

void check_rename(const RenameStmt *statement) {
	if (statement->renameType == OBJECT_SCHEMA) {
		const Oid schema = get_namespace_oid(statement->subname, true);
		if (strcmp(statement->subname, "jobqueue") == 0)
			refuse_member(NamespaceRelationId, schema, "rename");
		return;
	}
	const Oid relation = own_relation(statement->relation);
	if (!OidIsValid(relation)) {
		refuse_member_named(statement->renameType, statement->object, "rename");
		return;
	}
	const char *const name = get_rel_name(relation);
	switch (statement->renameType) {
	case OBJECT_INDEX:
		if (!is_own_index(name) && !is_own_constraint(name))
			return;
		break;
	case OBJECT_TABCONSTRAINT:
		if (!is_own_constraint(statement->subname))
			return;
		break;
	case OBJECT_TRIGGER:
		if (!is_own_trigger(relation, statement->subname))
			return;
		break;
	default:
		break;
	}
	refuse(statement->renameType == OBJECT_COLUMN ? "rename a column of" : "rename a part of", relation, by_name,
		   "Create a view with the names that you prefer.");
}

void check_drop(const DropStmt *statement) {
	ListCell *cell;
	foreach (cell, statement->objects) {
		Node *object = static_cast<Node *>(lfirst(cell));
		if (statement->removeType == OBJECT_INDEX) {
			const Oid index = own_relation(makeRangeVarFromNameList(castNode(List, object)));
			if (OidIsValid(index) && is_own_index(get_rel_name(index)))
				refuse("drop", index, rests, "Use REINDEX to build it again.");
		} else if (statement->removeType == OBJECT_TRIGGER) {
			List *names = list_copy(castNode(List, object));
			const char *const trigger = strVal(llast(names));
			const Oid table = own_relation(makeRangeVarFromNameList(list_truncate(names, list_length(names) - 1)));
			if (OidIsValid(table) && is_own_trigger(table, trigger))
				refuse("drop a trigger of jobqueue from", table, rests, drop_extension);
		}
	}
}

void check_create_trigger(const CreateTrigStmt *statement) {
	const Oid table = own_relation(statement->relation);
	if (OidIsValid(table) && is_table_of_tasks(table) && statement->row && TRIGGER_FOR_BEFORE(statement->timing) &&
		(statement->events & (TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)) != 0)
		refuse("create such a trigger on", table, "It could prevent a task from being claimed, or from ending.",
			   "Use an AFTER trigger, or a BEFORE trigger on INSERT.");
}

bool enables_triggers(const AlterTableStmt *statement) {
	ListCell *cell;
	foreach (cell, statement->cmds) {
		const AlterTableType type = static_cast<const AlterTableCmd *>(lfirst(cell))->subtype;
		if (type == AT_EnableTrigAll || type == AT_EnableTrigUser)
			return true;
	}
	return false;
}

} // namespace

void keep_triggers(Node *command) {
	if (nodeTag(command) != T_AlterTableStmt || creating_extension || IsBinaryUpgrade ||
		!enables_triggers(reinterpret_cast<AlterTableStmt *>(command)))
		return;
	const Oid relation = own_relation(reinterpret_cast<AlterTableStmt *>(command)->relation);
	if (!OidIsValid(relation))
		return;
	CommandCounterIncrement();
	List *commands = NIL;
	Relation table = table_open(relation, NoLock);
	const TriggerDesc *triggers = table->trigdesc;
	for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++) {
		const char *const name = triggers->triggers[i].tgname;
		if (!is_own_trigger(relation, name) || triggers->triggers[i].tgenabled == TRIGGER_FIRES_ALWAYS)
			continue;
		AlterTableCmd *enable = makeNode(AlterTableCmd);
		enable->subtype = AT_EnableAlwaysTrig;
		enable->name = pstrdup(name);
		commands = lappend(commands, enable);
	}
	table_close(table, NoLock);
	if (commands != NIL)
		AlterTableInternal(relation, commands, false);
}

void refuse_to_break(Node *command) {
	if (creating_extension || IsBinaryUpgrade)
		return;
	switch (nodeTag(command)) {
	case T_AlterTableStmt:
		check_alter_table(reinterpret_cast<AlterTableStmt *>(command));
		break;
	case T_CreateStmt:
		check_create_table(reinterpret_cast<CreateStmt *>(command));
		break;
	case T_RenameStmt:
		check_rename(reinterpret_cast<RenameStmt *>(command));
		break;
	case T_DropStmt:
		check_drop(reinterpret_cast<DropStmt *>(command));
		break;
	case T_CreateTrigStmt:
		check_create_trigger(reinterpret_cast<CreateTrigStmt *>(command));
		break;
	case T_AlterObjectSchemaStmt: {
		const auto *statement = reinterpret_cast<AlterObjectSchemaStmt *>(command);
		const Oid relation = own_relation(statement->relation);
		if (OidIsValid(relation))
			refuse("move to another schema", relation, by_name, "Create a view in the schema that you prefer.");
		if (statement->object != nullptr)
			refuse_member_named(statement->objectType, statement->object, "move to another schema");
		break;
	}
	case T_RuleStmt: {
		const Oid relation = own_relation(reinterpret_cast<RuleStmt *>(command)->relation);
		if (OidIsValid(relation))
			refuse("create a rule on", relation, "It would be part of every statement of jobqueue.",
				   "Use an AFTER trigger.");
		break;
	}
	case T_CreatePolicyStmt: {
		const Oid relation = own_relation(reinterpret_cast<CreatePolicyStmt *>(command)->table);
		if (OidIsValid(relation))
			refuse(
				"create a policy on", relation,
				"jobqueue adds its own policies to each query, and a dump with other policies could not be restored.",
				"Use jobqueue.grant_access() to give access to queues.");
		break;
	}
	default:
		break;
	}
}

} // namespace jobqueue
