typedef struct pcre pcre;
typedef struct pcre_extra pcre_extra;
