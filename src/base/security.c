/*-------------------------------------------------------------------------
 *
 * security.c
 *	  Acting as another role for one statement, as foreign-key triggers do,
 *	  and noticing what a callback must not change.
 *
 * Between esrs_security_become() and esrs_security_restore() stand only esrs'
 * own fixed statements, whose names and operators are all qualified.  What the
 * owner of an events table put on it (triggers, defaults, constraints, index
 * expressions) does run, with its owner's rights and the pinned search_path,
 * as for the owner's own INSERT; but a deferred trigger runs at commit, as
 * whoever commits.  Whoever commands an aggregate trusts its owner: he runs
 * the owner's functions with his own rights anyway.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/security.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/rls.h"

/*
 * Become a role, with search_path pinned and without its own row security.
 * Undone by esrs_security_restore(), or by the end of the (sub)transaction
 * if an error is raised in between.
 */
void
esrs_security_become(EsrsIdentity *before, Oid role)
{
	GetUserIdAndSecContext(&before->role, &before->security);
	before->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SetUserIdAndSecContext(role, before->security |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
}

/*
 * Until esrs_security_restore(): no code may leave anything behind that runs
 * later, as somebody else, nor temporary or prepared things.
 */
void
esrs_security_restrict(void)
{
	Oid			role;
	int			security;

	GetUserIdAndSecContext(&role, &security);
	SetUserIdAndSecContext(role, security | SECURITY_RESTRICTED_OPERATION);
}

/*
 * Become a role for code of users: with a search_path given, and its own row
 * security.  Undone as above; settings that the code leaves behind go with it.
 */
void
esrs_security_act_as(EsrsIdentity *before, Oid role, const char *search_path)
{
	GetUserIdAndSecContext(&before->role, &before->security);
	before->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(role, (before->security & ~SECURITY_NOFORCE_RLS) |
						   SECURITY_LOCAL_USERID_CHANGE);
	(void) set_config_option("search_path", search_path,
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
esrs_security_restore(const EsrsIdentity *before)
{
	AtEOXact_GUC(false, before->guc_level);
	SetUserIdAndSecContext(before->role, before->security);
}

/* Note the settings that decide about rights, durability and visibility. */
void
esrs_security_note_settings(EsrsSettings *settings)
{
	settings->role = GetUserId();
	settings->session_role = GetSessionUserId();
	settings->read_only = XactReadOnly;
	settings->deferrable = XactDeferrable;
	settings->row_security = row_security;
	settings->isolation = XactIsoLevel;
	settings->synchronous_commit = synchronous_commit;
	settings->replication_role = SessionReplicationRole;
	settings->search_path_hash =
		hash_bytes((const unsigned char *) namespace_search_path,
				   strlen(namespace_search_path));
}

/* The name of a setting that is not as it was, or NULL. */
const char *
esrs_security_changed_setting(const EsrsSettings *before)
{
	EsrsSettings now;

	esrs_security_note_settings(&now);
	if (now.role != before->role)
		return "role";
	if (now.session_role != before->session_role)
		return "session_authorization";
	if (now.read_only != before->read_only)
		return "transaction_read_only";
	if (now.deferrable != before->deferrable)
		return "transaction_deferrable";
	if (now.row_security != before->row_security)
		return "row_security";
	if (now.isolation != before->isolation)
		return "transaction_isolation";
	if (now.synchronous_commit != before->synchronous_commit)
		return "synchronous_commit";
	if (now.replication_role != before->replication_role)
		return "session_replication_role";
	if (now.search_path_hash != before->search_path_hash)
		return "search_path";
	return NULL;
}
