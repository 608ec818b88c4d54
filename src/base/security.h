/*-------------------------------------------------------------------------
 *
 * security.h
 *	  Acting as another role for one statement, see security.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_SECURITY_H
#define ESRS_BASE_SECURITY_H

#include "postgres.h"

/* Who we were before esrs_security_become(). */
typedef struct EsrsIdentity
{
	Oid			role;
	int			security;
	int			guc_level;
} EsrsIdentity;

extern void esrs_security_become(EsrsIdentity *before, Oid role);
extern void esrs_security_act_as(EsrsIdentity *before, Oid role, const char *search_path);
extern void esrs_security_restrict(void);
extern void esrs_security_restore(const EsrsIdentity *before);

/* The settings that a callback may not change, as they are now. */
typedef struct EsrsSettings
{
	Oid			role;
	Oid			session_role;
	bool		read_only;
	bool		deferrable;
	bool		row_security;
	int			isolation;
	int			synchronous_commit;
	int			replication_role;
	uint32		search_path_hash;
} EsrsSettings;

extern void esrs_security_note_settings(EsrsSettings *settings);
extern const char *esrs_security_changed_setting(const EsrsSettings *before);

#endif							/* ESRS_BASE_SECURITY_H */
