typedef struct pcre2_code pcre2_code;
