/* SPDX-License-Identifier: MIT */
/* hash.c - SHA-256 by libcrypto, and the time it takes. */
#include "rawpack.h"

#include <openssl/evp.h>
#include <stdlib.h>

struct hash {
	EVP_MD_CTX *context;
	EVP_MD *algorithm; /* fetched once: looking it up costs more than a small file */
	uint64_t spent_ns;
	bool failed; /* since hash_start() */
};

struct hash *hash_create(void)
{
	struct hash *hash = calloc(1, sizeof(*hash));

	if (hash) {
		hash->context = EVP_MD_CTX_new();
		hash->algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
		if (hash->context && hash->algorithm)
			return hash;
		hash_free(hash);
	}
	complain("libcrypto gives no SHA-256");
	return NULL;
}

void hash_free(struct hash *hash)
{
	if (!hash)
		return;
	EVP_MD_CTX_free(hash->context);
	EVP_MD_free(hash->algorithm);
	free(hash);
}

void hash_start(struct hash *hash)
{
	hash->failed = !EVP_DigestInit_ex(hash->context, hash->algorithm, NULL);
}

void hash_add(struct hash *hash, const void *data, size_t bytes)
{
	uint64_t start = now_ns();

	if (!EVP_DigestUpdate(hash->context, data, bytes))
		hash->failed = true;
	hash->spent_ns += now_ns() - start;
}

int hash_finish(struct hash *hash, uint8_t digest[DIGEST_BYTES])
{
	if (!EVP_DigestFinal_ex(hash->context, digest, NULL))
		hash->failed = true;
	if (hash->failed) {
		complain("libcrypto cannot compute SHA-256");
		return EX_SOFTWARE;
	}
	return EX_OK;
}

uint64_t hash_ns(const struct hash *hash)
{
	return hash->spent_ns;
}
