declare module "lodash-es";
declare module "ramda";
